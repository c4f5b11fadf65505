//! Reading weights: one by one out of mapped shards, or from a stream.
use std::collections::HashMap;
use std::io::Read;

use bytes::{Bytes, BytesMut};

use crate::data::{Payload, TensorBytes};
use crate::io::{ModelSource, check_path};
use crate::json::is_lfs_pointer;
use crate::{Codec, FormatError, Storage, WeightGroup, WeightSpec};

/// The weights of a model, decoded when asked for.
///
/// Shards stay mapped (or, from HTTP, in memory) and are never joined; a weight inside one shard is a slice
/// of it, one that straddles shards is joined alone, quantized ones are decoded.
///
/// ```no_run
/// use tfjs_format::io::FileSource;
/// use tfjs_format::{ModelJson, Weights};
/// let source = FileSource::open("mobilenet/model.json")?;
/// let model = ModelJson::load(&source)?;
/// let weights = Weights::open(&source, &model.weights_manifest)?;
/// let kernel = weights.get("MobilenetV1/Conv2d_0/weights")?;
/// println!("{:?} {:?}", kernel.shape, &kernel.f32s()?[..4]);
/// # Ok::<(), tfjs_format::FormatError>(())
/// ```
pub struct Weights {
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    groups: Vec<Group>,
    source: String,
}

struct Entry {
    spec: WeightSpec,
    group: usize,
    start: usize,
    len: usize,
}

/// Shards of a group, each with its first byte's offset in the group.
struct Group {
    shards: Vec<(usize, Bytes)>,
    len: usize,
}

impl Weights {
    /// Opens all shards and checks that they hold exactly the weights of the manifest.
    ///
    /// # Errors
    /// When a shard is missing, too short or too long, a path leads elsewhere, a name occurs twice, or a
    /// size overflows.
    pub fn open(source: &dyn ModelSource, manifest: &[WeightGroup]) -> Result<Weights, FormatError> {
        let in_model = |error: FormatError| error.in_file(source.name());
        check_manifest(manifest).map_err(in_model)?;
        let mut groups = Vec::with_capacity(manifest.len());
        let mut progress = ShardProgress::new(source, manifest);
        for group in manifest {
            let mut shards = Vec::with_capacity(group.paths.len());
            let mut len = 0usize;
            for path in &group.paths {
                let shard = source.shard(path)?;
                check_shard(&shard, source, path)?;
                let start = len;
                len = len.checked_add(shard.len()).ok_or_else(|| FormatError::SizeOverflow {
                    name: source.shard_name(path),
                    shape: Vec::new(),
                })?;
                shards.push((start, shard));
                progress.shard_done();
            }
            groups.push(Group { shards, len });
        }
        let mut weights =
            Weights { entries: Vec::new(), by_name: HashMap::new(), groups, source: source.name() };
        for (index, group) in manifest.iter().enumerate() {
            weights.index_group(index, group).map_err(in_model)?;
        }
        Ok(weights)
    }

    fn index_group(&mut self, index: usize, manifest: &WeightGroup) -> Result<(), FormatError> {
        let group = &self.groups[index];
        let mut start = 0usize;
        let mut cut_off = None;
        for spec in &manifest.weights {
            let len = match spec.byte_len()? {
                Some(len) => len,
                None if cut_off.is_some() => 0,
                None => group.string_len(start, spec)?,
            };
            let end = start.checked_add(len).ok_or_else(|| FormatError::SizeOverflow {
                name: spec.name.clone(),
                shape: spec.shape.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect(),
            })?;
            if end > group.len && cut_off.is_none() {
                cut_off = Some(spec.name.clone());
            }
            self.by_name.insert(spec.name.clone(), self.entries.len());
            self.entries.push(Entry { spec: spec.clone(), group: index, start, len });
            start = end;
        }
        if start != group.len {
            return Err(FormatError::GroupSize {
                group: index + 1,
                expected: start as u64,
                found: group.len as u64,
                shards: manifest.paths.len(),
                weight: cut_off,
            });
        }
        Ok(())
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The weights in the order of the manifest.
    pub fn specs(&self) -> impl ExactSizeIterator<Item = &WeightSpec> {
        self.entries.iter().map(|entry| &entry.spec)
    }

    /// Name, shape and storage of a weight.
    pub fn spec(&self, name: &str) -> Option<&WeightSpec> {
        self.by_name.get(name).map(|&index| &self.entries[index].spec)
    }

    /// The values of a weight in its run-time type.
    ///
    /// # Errors
    /// When there is no weight of that name, or a string in it is malformed.
    pub fn get(&self, name: &str) -> Result<TensorBytes, FormatError> {
        let entry = self.entry(name)?;
        decode(&entry.spec, self.bytes(entry)).map_err(|error| error.in_file(&self.source))
    }

    /// The bytes of a weight as they are stored.
    ///
    /// # Errors
    /// When there is no weight of that name.
    pub fn stored(&self, name: &str) -> Result<Bytes, FormatError> {
        Ok(self.bytes(self.entry(name)?))
    }

    /// All weights in the order of the manifest, decoded one at a time.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&WeightSpec, Result<TensorBytes, FormatError>)> {
        self.entries.iter().map(|entry| {
            let values = decode(&entry.spec, self.bytes(entry));
            (&entry.spec, values.map_err(|error| error.in_file(&self.source)))
        })
    }

    fn entry(&self, name: &str) -> Result<&Entry, FormatError> {
        let index = self
            .by_name
            .get(name)
            .ok_or_else(|| FormatError::UnknownWeight { name: name.to_owned() }.in_file(&self.source))?;
        Ok(&self.entries[*index])
    }

    fn bytes(&self, entry: &Entry) -> Bytes {
        self.groups[entry.group].slice(entry.start, entry.len)
    }
}

impl Group {
    /// The bytes of a range that is known to lie inside the group.
    fn slice(&self, start: usize, len: usize) -> Bytes {
        if len == 0 {
            return Bytes::new();
        }
        let first = self.shards.partition_point(|&(offset, _)| offset <= start).saturating_sub(1);
        let Some((offset, shard)) = self.shards.get(first) else { return Bytes::new() };
        let begin = start - offset;
        if begin + len <= shard.len() {
            return shard.slice(begin..begin + len);
        }
        let mut joined = BytesMut::with_capacity(len);
        joined.extend_from_slice(&shard[begin..]);
        for (_, shard) in &self.shards[first + 1..] {
            let missing = len - joined.len();
            joined.extend_from_slice(&shard[..missing.min(shard.len())]);
            if joined.len() == len {
                break;
            }
        }
        joined.freeze()
    }

    /// Bytes of a string weight that begins at `start`, by walking over the lengths in it.
    fn string_len(&self, start: usize, spec: &WeightSpec) -> Result<usize, FormatError> {
        let mut at = start;
        for element in 0..spec.elements()? {
            let end = (self.len >= 4 && at <= self.len - 4)
                .then(|| u32_from(&self.slice(at, 4)) as usize)
                .and_then(|len| at.checked_add(4)?.checked_add(len))
                .filter(|&end| end <= self.len);
            at = end.ok_or_else(|| FormatError::BadString {
                weight: spec.name.clone(),
                element,
                offset: (at - start) as u64,
            })?;
        }
        Ok(at - start)
    }
}

/// A shard being read, and its path.
type OpenShard<'s, 'a> = (&'s mut Box<dyn Read + Send>, &'a str);

/// Decodes weights in the order of the manifest while their files are read: at most one weight (and the
/// reader's own buffer) is in memory at a time.
///
/// ```no_run
/// # use tfjs_format::{io::FileSource, ModelJson, WeightStream};
/// # let source = FileSource::open("mobilenet/model.json")?;
/// # let model = ModelJson::load(&source)?;
/// let mut stream = WeightStream::new(&source, &model.weights_manifest)?;
/// while let Some((spec, values)) = stream.next_weight()? {
///     println!("{} {:?}", spec.name, values.shape);
/// }
/// # Ok::<(), tfjs_format::FormatError>(())
/// ```
pub struct WeightStream<'a> {
    source: &'a dyn ModelSource,
    manifest: &'a [WeightGroup],
    progress: ShardProgress<'a>,
    group: usize,
    weight: usize,
    /// Shards of the group that are not opened yet.
    next_shard: usize,
    reader: Option<Box<dyn Read + Send>>,
    consumed: u64,
}

impl<'a> WeightStream<'a> {
    /// A stream over all weights.
    ///
    /// # Errors
    /// When the manifest is malformed; files are opened later.
    pub fn new(source: &'a dyn ModelSource, manifest: &'a [WeightGroup]) -> Result<Self, FormatError> {
        check_manifest(manifest).map_err(|error| error.in_file(source.name()))?;
        let progress = ShardProgress::new(source, manifest);
        Ok(WeightStream {
            source,
            manifest,
            progress,
            group: 0,
            weight: 0,
            next_shard: 0,
            reader: None,
            consumed: 0,
        })
    }

    /// The next weight, or `None` after the last.
    ///
    /// # Errors
    /// When reading fails, or a group holds less or more than its weights.
    pub fn next_weight(&mut self) -> Result<Option<(&'a WeightSpec, TensorBytes)>, FormatError> {
        while let Some(group) = self.manifest.get(self.group) {
            if let Some(spec) = group.weights.get(self.weight) {
                self.weight += 1;
                let values = match spec.byte_len()? {
                    Some(len) => decode(spec, self.take(len, spec)?)?,
                    None => self.take_strings(spec)?,
                };
                return Ok(Some((spec, values)));
            }
            let surplus = self.skip_rest()?;
            if surplus > 0 {
                let error = FormatError::GroupSize {
                    group: self.group + 1,
                    expected: self.consumed,
                    found: self.consumed.saturating_add(surplus),
                    shards: group.paths.len(),
                    weight: None,
                };
                return Err(error.in_file(self.source.name()));
            }
            self.group += 1;
            (self.weight, self.next_shard, self.consumed) = (0, 0, 0);
        }
        Ok(None)
    }

    fn take(&mut self, len: usize, spec: &WeightSpec) -> Result<Bytes, FormatError> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let missing = len - bytes.len();
            let Some((reader, path)) = self.reader()? else {
                let error = FormatError::Truncated {
                    weight: spec.name.clone(),
                    size: len as u64,
                    missing: missing as u64,
                };
                return Err(error.in_file(self.source.name()));
            };
            // A wrong size in the manifest must not reserve memory that no file fills.
            bytes
                .try_reserve(missing.min(1 << 24))
                .map_err(|_| FormatError::SizeOverflow { name: spec.name.clone(), shape: Vec::new() })?;
            let read = reader.take(missing as u64).read_to_end(&mut bytes);
            match read {
                Ok(0) => self.end_shard(),
                Ok(n) => self.consumed += n as u64,
                Err(e) => return Err(FormatError::io("read", self.source.shard_name(path), e)),
            }
        }
        Ok(bytes.into())
    }

    fn take_strings(&mut self, spec: &WeightSpec) -> Result<TensorBytes, FormatError> {
        let mut items = Vec::new();
        for _ in 0..spec.elements()? {
            let len = u32_from(&self.take(4, spec)?) as usize;
            items.push(self.take(len, spec)?);
        }
        Ok(TensorBytes {
            dtype: spec.runtime_dtype(),
            shape: spec.shape.clone(),
            data: Payload::Strings(items),
        })
    }

    /// The open shard, or the next one; `None` at the end of the group.
    fn reader(&mut self) -> Result<Option<OpenShard<'_, 'a>>, FormatError> {
        let paths = &self.manifest[self.group].paths;
        if self.reader.is_none() {
            let Some(path) = paths.get(self.next_shard) else { return Ok(None) };
            self.reader = Some(self.source.stream(path)?);
            self.next_shard += 1;
        }
        let path = self.next_shard.checked_sub(1).and_then(|i| paths.get(i)).map_or("", String::as_str);
        Ok(self.reader.as_mut().map(|reader| (reader, path)))
    }

    fn end_shard(&mut self) {
        self.reader = None;
        self.progress.shard_done();
    }

    /// Reads what is left of the group, and says how much that was.
    fn skip_rest(&mut self) -> Result<u64, FormatError> {
        let mut surplus = 0u64;
        loop {
            let Some((reader, path)) = self.reader()? else { return Ok(surplus) };
            let read = std::io::copy(reader, &mut std::io::sink());
            surplus += read.map_err(|e| FormatError::io("read", self.source.shard_name(path), e))?;
            self.end_shard();
        }
    }
}

/// Tells the source's listener which part of the shards has arrived.
struct ShardProgress<'a> {
    source: &'a dyn ModelSource,
    done: usize,
    shards: usize,
}

impl<'a> ShardProgress<'a> {
    fn new(source: &'a dyn ModelSource, manifest: &[WeightGroup]) -> ShardProgress<'a> {
        let shards = manifest.iter().map(|group| group.paths.len()).sum();
        if let Some(progress) = source.progress() {
            progress(0.0);
        }
        ShardProgress { source, done: 0, shards }
    }

    fn shard_done(&mut self) {
        self.done += 1;
        if let Some(progress) = self.source.progress() {
            progress(self.done as f64 / self.shards as f64);
        }
    }
}

/// Checks what can be checked without the shards.
fn check_manifest(manifest: &[WeightGroup]) -> Result<(), FormatError> {
    let mut names = std::collections::HashSet::new();
    for group in manifest {
        group.paths.iter().try_for_each(|path| check_path(path))?;
        for spec in &group.weights {
            spec.byte_len()?;
            if !names.insert(spec.name.as_str()) {
                return Err(FormatError::DuplicateWeight { name: spec.name.clone() });
            }
        }
    }
    Ok(())
}

fn check_shard(shard: &[u8], source: &dyn ModelSource, path: &str) -> Result<(), FormatError> {
    match is_lfs_pointer(shard) {
        true => Err(FormatError::GitLfsPointer.in_file(source.shard_name(path))),
        false => Ok(()),
    }
}

fn u32_from(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |&first| u32::from_le_bytes(first))
}

/// The run-time values of a weight's stored bytes.
pub(crate) fn decode(spec: &WeightSpec, bytes: Bytes) -> Result<TensorBytes, FormatError> {
    let (dtype, shape) = (spec.runtime_dtype(), spec.shape.clone());
    let as_is = |data| Ok(TensorBytes { dtype, shape: shape.clone(), data: Payload::Plain(data) });
    let codec = spec.quantization.as_ref().map(|quantization| quantization.codec);
    match (codec, spec.dtype) {
        (Some(codec), Storage::Int32) => {
            let mut values = Vec::with_capacity(spec.elements()?);
            codec.decode_i32(&bytes, &mut values);
            as_is(owned(values, i32::to_le_bytes))
        }
        (Some(codec), _) => {
            let mut values = Vec::with_capacity(spec.elements()?);
            codec.decode_f32(&bytes, &mut values);
            as_is(owned(values, f32::to_le_bytes))
        }
        (None, Storage::Float16) => {
            let mut values = Vec::with_capacity(spec.elements()?);
            Codec::Float16.decode_f32(&bytes, &mut values);
            as_is(owned(values, f32::to_le_bytes))
        }
        (None, Storage::Uint8) => {
            as_is(owned(bytes.iter().map(|&b| i32::from(b)).collect(), i32::to_le_bytes))
        }
        (None, Storage::Uint16) => {
            let words = bytes.as_chunks::<2>().0.iter().map(|&word| i32::from(u16::from_le_bytes(word)));
            as_is(owned(words.collect(), i32::to_le_bytes))
        }
        (None, Storage::String) => Ok(TensorBytes {
            dtype,
            shape: shape.clone(),
            data: Payload::Strings(split_strings(spec, bytes)?),
        }),
        (None, Storage::Float32 | Storage::Int32 | Storage::Bool | Storage::Complex64) => as_is(bytes),
    }
}

fn split_strings(spec: &WeightSpec, mut rest: Bytes) -> Result<Vec<Bytes>, FormatError> {
    let total = rest.len();
    let elements = spec.elements()?;
    // Each element has at least its length.
    let mut items = Vec::with_capacity(elements.min(total / 4));
    for element in 0..elements {
        let bad = |rest: &Bytes| FormatError::BadString {
            weight: spec.name.clone(),
            element,
            offset: (total - rest.len()) as u64,
        };
        let len = u32_from(&rest) as usize;
        if rest.len() < 4 || rest.len() - 4 < len {
            return Err(bad(&rest));
        }
        let _ = rest.split_to(4);
        items.push(rest.split_to(len));
    }
    Ok(items)
}

/// Numbers as little-endian bytes without a copy, aligned for their type.
fn owned<T: bytemuck::Pod + Send, const N: usize>(values: Vec<T>, to_le: fn(T) -> [u8; N]) -> Bytes {
    struct Owner<T>(Vec<T>);
    impl<T: bytemuck::Pod> AsRef<[u8]> for Owner<T> {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }
    match cfg!(target_endian = "little") {
        true => Bytes::from_owner(Owner(values)),
        false => values.into_iter().flat_map(to_le).collect::<Vec<u8>>().into(),
    }
}
