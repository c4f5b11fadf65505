//! Writes HDF5 in its oldest and plainest form, which every reader knows: superblock 0, groups as B-trees of symbol
//! tables, contiguous datasets.
//!
//! Written here rather than with a library: `hdf5-pure` is 126 000 lines and keeps the file in memory, `hdf5-writer`
//! knows no attributes over 64 KB, and Keras needs this little. Everything but the elements is laid out in memory;
//! then the elements of one dataset after the other are read and written.

use std::{collections::BTreeMap, io::Write};

use half::{bf16, f16};
use tfjs_format::proto::DataType;
use tfjs_graph::{Constant, Tensor};
use tfjs_kernels::DType;

use super::ElementType;
use crate::keras::KerasError;

/// A group of an HDF5 file that is to be written.
#[derive(Clone, Debug, Default)]
pub struct H5Group {
    attributes: Vec<(String, Text)>,
    members: BTreeMap<String, Member>,
}

#[derive(Clone, Debug)]
enum Member {
    Group(H5Group),
    Dataset(Dataset),
}

#[derive(Clone, Debug)]
struct Dataset {
    dtype: ElementType,
    value: Constant,
}

/// The value of an attribute.
#[derive(Clone, Debug)]
enum Text {
    /// One string of any length.
    One(String),
    /// Strings of any length, 16 bytes for each in the group's header.
    Each(Vec<String>),
    /// Strings all as wide as the longest.
    Wide(Vec<String>),
}

/// The most bytes of strings that Keras puts into one attribute.
const ATTRIBUTE_LIMIT: usize = 64512;

impl H5Group {
    /// A group without members.
    pub fn new() -> H5Group {
        H5Group::default()
    }

    /// Adds an attribute of one string.
    pub fn text(&mut self, name: &str, value: impl Into<String>) {
        self.attributes.push((name.to_owned(), Text::One(value.into())));
    }

    /// Adds a list of strings, as Keras does: split over `name0`, `name1`, … when it is long.
    ///
    /// # Errors
    /// When one string alone is too long.
    pub fn list(&mut self, name: &str, values: &[String]) -> Result<(), KerasError> {
        let longest = values.iter().map(String::len).max().unwrap_or(0);
        if longest > ATTRIBUTE_LIMIT {
            return Err(KerasError::Unwritable {
                object: name.to_owned(),
                what: "an attribute takes no name of more than 64512 bytes".to_owned(),
            });
        }
        let per_chunk = (ATTRIBUTE_LIMIT / longest.max(1)).max(1);
        let chunks = values.len().div_ceil(per_chunk);
        if chunks <= 1 {
            let text = if values.len() * REFERENCE <= ATTRIBUTE_LIMIT { Text::Each } else { Text::Wide };
            self.attributes.push((name.to_owned(), text(values.to_vec())));
            return Ok(());
        }
        // As evenly as possible, the longer parts first, as NumPy's `array_split`.
        let (even, longer) = (values.len() / chunks, values.len() % chunks);
        let mut rest = values;
        for chunk in 0..chunks {
            let (part, after) = rest.split_at(even + usize::from(chunk < longer));
            self.attributes.push((format!("{name}{chunk}"), Text::Wide(part.to_vec())));
            rest = after;
        }
        Ok(())
    }

    /// The group at a path below this one, made if it is not there.
    ///
    /// # Errors
    /// When a dataset is in the way.
    pub fn group(&mut self, path: &str) -> Result<&mut H5Group, KerasError> {
        let mut group = self;
        for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
            let member =
                group.members.entry(part.to_owned()).or_insert_with(|| Member::Group(H5Group::new()));
            group = match member {
                Member::Group(group) => group,
                Member::Dataset(_) => {
                    let what = format!("`{part}` is a weight and cannot hold others");
                    return Err(KerasError::Unwritable { object: path.to_owned(), what });
                }
            };
        }
        Ok(group)
    }

    /// Adds a dataset at a path below this group, of the type that the value has in its file.
    ///
    /// # Errors
    /// When the path is taken, or HDF5 as Keras uses it has no such type.
    pub fn dataset(&mut self, path: &str, value: Constant) -> Result<(), KerasError> {
        let dtype = stored_type(value.data_type()).ok_or_else(|| KerasError::ElementType {
            object: path.to_owned(),
            found: value.data_type().as_str_name().to_owned(),
        })?;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let unwritable =
            |what: &str| KerasError::Unwritable { object: path.to_owned(), what: what.to_owned() };
        if name.is_empty() || name == "." {
            return Err(unwritable("its name is empty"));
        }
        let before =
            self.group(parent)?.members.insert(name.to_owned(), Member::Dataset(Dataset { dtype, value }));
        match before {
            None => Ok(()),
            Some(_) => Err(unwritable("there are two of this name")),
        }
    }

    /// Writes the group as the root of a file.
    pub(crate) fn write(&self, out: &mut dyn Write) -> Result<(), KerasError> {
        let mut layout = Layout { bytes: vec![0; SUPERBLOCK], ..Layout::default() };
        let root = layout.group(self, "")?;
        layout.finish(root)?;
        out.write_all(&layout.bytes)?;
        for (path, dataset, size) in layout.data {
            let fail = |source| KerasError::Object { object: path.clone(), source };
            let bytes = dataset.bytes(&dataset.value.tensor().map_err(fail)?, &path)?;
            if bytes.len() != size {
                return Err(KerasError::Length { object: path, got: bytes.len(), expected: size });
            }
            out.write_all(&bytes)?;
            out.write_all(&[0; ALIGN][..padding(size)])?;
        }
        Ok(())
    }
}

fn stored_type(dtype: DataType) -> Option<ElementType> {
    let int = |bytes, signed| Some(ElementType::Int { bytes, signed });
    match dtype {
        DataType::DtHalf => Some(ElementType::F16),
        DataType::DtBfloat16 => Some(ElementType::Bf16),
        DataType::DtFloat => Some(ElementType::F32),
        DataType::DtDouble => Some(ElementType::F64),
        DataType::DtBool => Some(ElementType::Bool),
        DataType::DtInt8 => int(1, true),
        DataType::DtInt16 => int(2, true),
        DataType::DtInt32 => int(4, true),
        DataType::DtInt64 => int(8, true),
        DataType::DtUint8 => int(1, false),
        DataType::DtUint16 => int(2, false),
        DataType::DtUint32 => int(4, false),
        DataType::DtUint64 => int(8, false),
        _ => None,
    }
}

impl Dataset {
    fn size(&self) -> Option<usize> {
        let count = crate::source::element_count(self.value.shape())?;
        count.checked_mul(self.dtype.width()?)
    }

    /// Little-endian elements of the type on disk.
    fn bytes(&self, tensor: &Tensor, path: &str) -> Result<Vec<u8>, KerasError> {
        let wrong = || KerasError::ElementType {
            object: path.to_owned(),
            found: format!("{} for {}", tensor.dtype(), self.dtype.describe()),
        };
        fn each<T: Copy, const N: usize>(items: &[T], f: impl Fn(T) -> [u8; N]) -> Vec<u8> {
            items.iter().flat_map(|&x| f(x)).collect()
        }
        let floats = || tensor.data::<f32>().map_err(|_| wrong());
        Ok(match (&self.dtype, tensor.dtype()) {
            (ElementType::F32, _) => match cfg!(target_endian = "little") {
                true => bytemuck::cast_slice(floats()?).to_vec(),
                false => each(floats()?, f32::to_le_bytes),
            },
            (ElementType::F64, _) => each(floats()?, |x| f64::from(x).to_le_bytes()),
            (ElementType::F16, _) => each(floats()?, |x| f16::from_f32(x).to_le_bytes()),
            (ElementType::Bf16, _) => each(floats()?, |x| bf16::from_f32(x).to_le_bytes()),
            (ElementType::Bool, DType::Bool) => {
                each(tensor.data::<bool>().map_err(|_| wrong())?, |x| [u8::from(x)])
            }
            (&ElementType::Int { bytes, .. }, DType::Int32) => {
                let items = tensor.data::<i32>().map_err(|_| wrong())?;
                items.iter().flat_map(|&x| i64::from(x).to_le_bytes().into_iter().take(bytes)).collect()
            }
            _ => return Err(wrong()),
        })
    }
}

const SUPERBLOCK: usize = 96;
const UNDEFINED: u64 = u64::MAX;
const ALIGN: usize = 8;
/// A string in an attribute: length, address of a heap, index in it.
const REFERENCE: usize = 16;
/// Half the children of a B-tree node, and half the entries of a symbol table node.
const TREE_K: usize = 16;
const LEAF_K: usize = 4;
const TREE_NODE: usize = 24 + 2 * TREE_K * 8 + (2 * TREE_K + 1) * 8;
const LEAF_NODE: usize = 8 + 2 * LEAF_K * 40;

fn padding(len: usize) -> usize {
    len.wrapping_neg() % ALIGN
}

/// All of the file but the elements.
#[derive(Default)]
struct Layout<'a> {
    bytes: Vec<u8>,
    /// Datasets in the order of their elements in the file, with their sizes.
    data: Vec<(String, &'a Dataset, usize)>,
    /// Where an address into the elements stands that counts from their start.
    data_addresses: Vec<usize>,
    /// Bytes of elements so far.
    data_len: u64,
    /// Strings of attributes, each with the place where the address of its heap goes.
    strings: Vec<(&'a str, usize)>,
}

/// Where a group's object header, B-tree and heap lie.
struct Placed {
    header: u64,
    tree: u64,
    heap: u64,
}

impl<'a> Layout<'a> {
    fn position(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn u16(&mut self, x: usize) {
        self.bytes.extend_from_slice(&(x as u16).to_le_bytes());
    }

    fn u32(&mut self, x: usize) {
        self.bytes.extend_from_slice(&(x as u32).to_le_bytes());
    }

    fn u64(&mut self, x: u64) {
        self.bytes.extend_from_slice(&x.to_le_bytes());
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len() + padding(self.bytes.len()), 0);
    }

    /// Members first, so that their addresses are known.
    fn group(&mut self, group: &'a H5Group, path: &str) -> Result<Placed, KerasError> {
        let mut members = Vec::with_capacity(group.members.len());
        for (name, member) in &group.members {
            let path = super::join(path, name);
            let header = match member {
                Member::Group(group) => self.group(group, &path)?.header,
                Member::Dataset(dataset) => self.dataset(dataset, path)?,
            };
            members.push((name.as_str(), header));
        }
        // Names in the heap, the empty one first.
        let mut names = vec![0; ALIGN];
        let mut entries = Vec::with_capacity(members.len());
        for (name, header) in members {
            entries.push((names.len() as u64, header));
            names.extend_from_slice(name.as_bytes());
            names.resize(names.len() + 1 + padding(names.len() + 1), 0);
        }
        let tree = self.tree(&entries);
        let heap = self.position();
        self.put(b"HEAP\0\0\0\0");
        self.u64(names.len() as u64);
        self.u64(1); // no free block
        self.u64(heap + 32);
        self.put(&names);

        let mut symbol_table = Vec::with_capacity(16);
        symbol_table.extend_from_slice(&tree.to_le_bytes());
        symbol_table.extend_from_slice(&heap.to_le_bytes());
        let mut messages = vec![Message::new(0x11, symbol_table)];
        messages.extend(group.attributes.iter().map(|(name, text)| attribute(name, text)));
        let header = self.header(messages, path)?;
        Ok(Placed { header, tree, heap })
    }

    /// Symbol table nodes and the B-tree above them; `entries` are the offset of a name and an object's address.
    fn tree(&mut self, entries: &[(u64, u64)]) -> u64 {
        // (Last name below, address) of the nodes of the level below.
        let mut below = Vec::new();
        for node in entries.chunks(2 * LEAF_K) {
            let start = self.bytes.len();
            below.push((node.last().map_or(0, |entry| entry.0), start as u64));
            self.put(b"SNOD\x01\0");
            self.u16(node.len());
            for &(name, header) in node {
                self.u64(name);
                self.u64(header);
                self.put(&[0; 24]); // nothing cached
            }
            self.bytes.resize(start + LEAF_NODE, 0);
        }
        let mut level = 0;
        loop {
            let start = self.position();
            let count = below.len().div_ceil(2 * TREE_K).max(1);
            let place = |index: usize| start + (index * TREE_NODE) as u64;
            let mut placed = Vec::with_capacity(count);
            let mut before = 0;
            for index in 0..count {
                let children = below.get(index * 2 * TREE_K..).unwrap_or_default();
                let children = &children[..children.len().min(2 * TREE_K)];
                self.put(b"TREE\0");
                self.put(&[level]);
                self.u16(children.len());
                self.u64(if index == 0 { UNDEFINED } else { place(index - 1) });
                self.u64(if index + 1 == count { UNDEFINED } else { place(index + 1) });
                self.u64(before);
                for &(last, address) in children {
                    self.u64(address);
                    self.u64(last);
                    before = last;
                }
                self.bytes.resize(place(index + 1) as usize, 0);
                placed.push((before, place(index)));
            }
            if let [(_, root)] = placed[..] {
                return root;
            }
            below = placed;
            level += 1;
        }
    }

    fn dataset(&mut self, dataset: &'a Dataset, path: String) -> Result<u64, KerasError> {
        let size = dataset.size().ok_or_else(|| KerasError::Unwritable {
            object: path.clone(),
            what: "its size overflows".to_owned(),
        })?;
        let mut place = vec![3, 1]; // contiguous, version 3
        place.extend_from_slice(&if size == 0 { UNDEFINED } else { self.data_len }.to_le_bytes());
        place.extend_from_slice(&(size as u64).to_le_bytes());
        let mut layout = Message::new(0x08, place);
        layout.data_address = (size > 0).then_some(2);
        let mut messages = vec![
            Message::new(0x01, dataspace(Some(dataset.value.shape()))),
            Message::new(0x03, datatype(&dataset.dtype)),
            // Allocate late, fill if set; the value is the default.
            Message::new(0x05, vec![2, 2, 2, 1, 0, 0, 0, 0]),
            layout,
        ];
        if dataset.dtype == ElementType::Bf16 {
            messages.push(attribute("dtype", BFLOAT16.get_or_init(|| Text::One("bfloat16".to_owned()))));
        }
        let header = self.header(messages, &path)?;
        if size > 0 {
            self.data_len += (size + padding(size)) as u64;
            self.data.push((path, dataset, size));
        }
        Ok(header)
    }

    /// An object header of version 1.
    fn header(&mut self, messages: Vec<Message<'a>>, path: &str) -> Result<u64, KerasError> {
        const LARGEST: usize = 65528;
        self.align();
        let address = self.position();
        let too_large =
            |what: &str| KerasError::Unwritable { object: path.to_owned(), what: what.to_owned() };
        if messages.len() > usize::from(u16::MAX) {
            return Err(too_large("it has more than 65535 attributes"));
        }
        let sizes = messages.iter().map(|m| m.bytes.len() + padding(m.bytes.len()));
        if sizes.clone().any(|size| size > LARGEST) {
            return Err(too_large("an attribute or the number of dimensions is too large"));
        }
        self.put(&[1, 0]);
        self.u16(messages.len());
        self.u32(1); // one link refers to it
        self.u32(sizes.map(|size| size + 8).sum());
        self.u32(0);
        for message in messages {
            self.u16(message.kind);
            self.u16(message.bytes.len() + padding(message.bytes.len()));
            self.u32(0); // flags
            let start = self.bytes.len();
            self.put(&message.bytes);
            self.align();
            self.data_addresses.extend(message.data_address.map(|at| start + at));
            self.strings.extend(message.strings.into_iter().map(|(text, at)| (text, start + at)));
        }
        Ok(address)
    }

    /// The heap of strings, then what could not be known before: addresses, and the superblock.
    fn finish(&mut self, root: Placed) -> Result<(), KerasError> {
        const PER_HEAP: usize = 60_000; // indices have 16 bits
        const SMALLEST: usize = 4096;
        let strings = std::mem::take(&mut self.strings);
        for part in strings.chunks(PER_HEAP) {
            self.align();
            let start = self.bytes.len();
            self.put(b"GCOL\x01\0\0\0");
            self.u64(0);
            for (index, (text, at)) in part.iter().enumerate() {
                self.u16(index + 1);
                self.u16(1);
                self.u32(0);
                self.u64(text.len() as u64);
                self.put(text.as_bytes());
                self.align();
                self.bytes[*at..at + 8].copy_from_slice(&(start as u64).to_le_bytes());
                self.bytes[at + 8..at + 12].copy_from_slice(&(index as u32 + 1).to_le_bytes());
            }
            // The rest is free space, an object with index 0 that counts its own header.
            let used = self.bytes.len() - start;
            let size = (used + 16).max(SMALLEST);
            self.u64(0);
            self.u64((size - used) as u64);
            self.bytes.resize(start + size, 0);
            self.bytes[start + 8..start + 16].copy_from_slice(&(size as u64).to_le_bytes());
        }
        self.align();
        let data = self.position();
        for &at in &self.data_addresses {
            if let Some(Ok(relative)) = self.bytes.get(at..at + 8).map(<[u8; 8]>::try_from) {
                let address = data + u64::from_le_bytes(relative);
                self.bytes[at..at + 8].copy_from_slice(&address.to_le_bytes());
            }
        }
        let mut superblock = Layout::default();
        superblock.put(b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0");
        superblock.u16(LEAF_K);
        superblock.u16(TREE_K);
        superblock.u32(0);
        superblock.u64(0);
        superblock.u64(UNDEFINED); // free space
        superblock.u64(data + self.data_len); // end of the file
        superblock.u64(UNDEFINED); // driver
        superblock.u64(0);
        superblock.u64(root.header);
        superblock.u32(1); // B-tree and heap follow
        superblock.u32(0);
        superblock.u64(root.tree);
        superblock.u64(root.heap);
        self.bytes[..SUPERBLOCK].copy_from_slice(&superblock.bytes);
        Ok(())
    }
}

static BFLOAT16: std::sync::OnceLock<Text> = std::sync::OnceLock::new();

/// A message of an object header.
struct Message<'a> {
    kind: usize,
    bytes: Vec<u8>,
    /// Where an address counts from the start of the elements.
    data_address: Option<usize>,
    /// Strings that go to the heap, and where their address goes.
    strings: Vec<(&'a str, usize)>,
}

impl Message<'_> {
    fn new(kind: usize, bytes: Vec<u8>) -> Message<'static> {
        Message { kind, bytes, data_address: None, strings: Vec::new() }
    }
}

fn attribute<'a>(name: &str, text: &'a Text) -> Message<'a> {
    let (space, kind) = match text {
        Text::One(_) => (dataspace(None), variable_string()),
        Text::Each(items) => (dataspace(Some(&[items.len()])), variable_string()),
        Text::Wide(items) => (dataspace(Some(&[items.len()])), fixed_string(width(items))),
    };
    let mut bytes = vec![1, 0];
    for len in [name.len() + 1, kind.len(), space.len()] {
        bytes.extend_from_slice(&(len as u16).to_le_bytes());
    }
    for part in [&[name.as_bytes(), b"\0"].concat(), &kind, &space] {
        bytes.extend_from_slice(part);
        bytes.resize(bytes.len() + padding(part.len()), 0);
    }
    let mut strings = Vec::new();
    let references = match text {
        Text::One(item) => std::slice::from_ref(item),
        Text::Each(items) => items,
        Text::Wide(items) => {
            for item in items {
                bytes.extend_from_slice(item.as_bytes());
                bytes.resize(bytes.len() + width(items) - item.len(), 0);
            }
            &[]
        }
    };
    for item in references {
        bytes.extend_from_slice(&(item.len() as u32).to_le_bytes());
        if !item.is_empty() {
            strings.push((item.as_str(), bytes.len()));
        }
        bytes.extend_from_slice(&[0; 12]);
    }
    Message { strings, ..Message::new(0x0c, bytes) }
}

fn width(items: &[String]) -> usize {
    items.iter().map(String::len).max().unwrap_or(0).max(1)
}

/// Dimensions; none for a scalar.
fn dataspace(shape: Option<&[usize]>) -> Vec<u8> {
    let shape = shape.unwrap_or_default();
    let mut bytes = vec![1, shape.len() as u8, 0, 0, 0, 0, 0, 0];
    for &dim in shape {
        bytes.extend_from_slice(&(dim as u64).to_le_bytes());
    }
    bytes
}

/// A datatype message: class, class bits, size, properties.
fn kind(class: u8, bits: [u8; 3], size: usize, properties: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1 << 4 | class, bits[0], bits[1], bits[2]];
    bytes.extend_from_slice(&(size as u32).to_le_bytes());
    bytes.extend_from_slice(properties);
    bytes
}

fn integer(bytes: usize, signed: bool) -> Vec<u8> {
    kind(0, [if signed { 8 } else { 0 }, 0, 0], bytes, &[0, 0, bytes as u8 * 8, 0])
}

/// An IEEE number: sizes of exponent and mantissa in bits.
fn float(bytes: usize, exponent: u8, mantissa: u8) -> Vec<u8> {
    let bits = bytes as u8 * 8;
    let bias = (1u32 << (exponent - 1)) - 1;
    let mut properties = vec![0, 0, bits, 0, mantissa, exponent, 0, mantissa];
    properties.extend_from_slice(&bias.to_le_bytes());
    // The leading one of the mantissa is implied.
    kind(1, [0x20, bits - 1, 0], bytes, &properties)
}

fn fixed_string(width: usize) -> Vec<u8> {
    kind(3, [1, 0, 0], width, &[]) // padded with zeros
}

fn variable_string() -> Vec<u8> {
    kind(9, [1, 0, 0], REFERENCE, &integer(1, false))
}

fn datatype(dtype: &ElementType) -> Vec<u8> {
    match dtype {
        ElementType::F16 => float(2, 5, 10),
        ElementType::F32 => float(4, 8, 23),
        ElementType::F64 => float(8, 11, 52),
        ElementType::Int { bytes, signed } => integer(*bytes, *signed),
        // As h5py stores what NumPy has no type for.
        ElementType::Bf16 => kind(5, [0, 0, 0], 2, &[]),
        ElementType::Bool => {
            let members = [&integer(1, true)[..], b"FALSE\0\0\0TRUE\0\0\0\0\x00\x01"].concat();
            kind(8, [2, 0, 0], 1, &members)
        }
        ElementType::Str | ElementType::Other(_) => Vec::new(),
    }
}
