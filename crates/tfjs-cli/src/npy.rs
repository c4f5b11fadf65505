//! NumPy's array files: `.npy` and the zip of them, `.npz`.

use std::{
    io::{self, Read, Seek, Write},
    str,
};

use ndarray::{Array, IxDyn, ShapeBuilder};
use num_complex::Complex32;
use tfjs_kernels::{Element, KernelError, Shape, Tensor, TfString};

/// What can be wrong with a `.npy` or `.npz` file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NpyError {
    #[error("cannot be read")]
    Io(#[from] io::Error),
    #[error("not a NumPy array: expected a file that numpy.save wrote")]
    Magic,
    #[error("NumPy format version {0} is not known")]
    Version(u8),
    #[error("the header is malformed: {0}")]
    Header(&'static str),
    #[error("arrays of type {0} are not supported: expected numbers, bool, bytes or str")]
    DType(String),
    #[error("Python objects are not read; save strings with a fixed width (`array.astype(\"S\")`)")]
    Objects,
    #[error("the shape {0} is too large")]
    TooLarge(Shape),
    #[error(
        "an array of type {dtype} and shape {shape} needs {expected} bytes of data, the file has {found}"
    )]
    Length { dtype: String, shape: Shape, expected: usize, found: usize },
    #[error("value {value} at index {index} does not fit int32")]
    Range { value: i128, index: usize },
    #[error("the string at index {index} is not valid Unicode")]
    Unicode { index: usize },
    #[error("arrays do not fit together")]
    Tensor(#[from] KernelError),
    #[error("not a zip archive of arrays")]
    Zip(#[from] zip::result::ZipError),
    #[error("array `{name}`")]
    Member { name: String, source: Box<NpyError> },
}

/// Whether the bytes start like a `.npy` file.
pub(crate) fn is_npy(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Reads a `.npy` file. All integers become int32, all floats float32, all complex numbers complex64.
///
/// # Errors
/// When the file is malformed, or holds integers that do not fit int32.
pub(crate) fn read(bytes: &[u8]) -> Result<Tensor, NpyError> {
    let (header, data) = split(bytes)?;
    let header = Header::parse(header)?;
    let kind = Kind::parse(&header.descr)?;
    let n = header.shape.checked_len().map_err(|_| NpyError::TooLarge(header.shape.clone()))?;
    let expected = n.checked_mul(kind.width).ok_or_else(|| NpyError::TooLarge(header.shape.clone()))?;
    if data.len() != expected {
        let Header { descr: dtype, shape, .. } = header;
        return Err(NpyError::Length { dtype, shape, expected, found: data.len() });
    }
    kind.decode(data, &header)
}

/// Reads all arrays of a `.npz` file, by name, in the order of the archive.
///
/// # Errors
/// When the archive or one of its arrays is malformed.
pub(crate) fn read_zip(file: impl Read + Seek) -> Result<Vec<(String, Tensor)>, NpyError> {
    let mut zip = zip::ZipArchive::new(file)?;
    let mut arrays = Vec::with_capacity(zip.len().min(1024));
    for i in 0..zip.len() {
        let mut member = zip.by_index(i)?;
        let Some(name) = member.name()?.strip_suffix(".npy").map(str::to_owned) else { continue };
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes)?;
        let tensor =
            read(&bytes).map_err(|e| NpyError::Member { name: name.clone(), source: Box::new(e) })?;
        arrays.push((name, tensor));
    }
    Ok(arrays)
}

/// Writes a tensor as a `.npy` file; strings as bytes of a fixed width.
///
/// # Errors
/// When writing fails.
pub(crate) fn write(tensor: &Tensor, out: &mut dyn Write) -> io::Result<()> {
    match tensor {
        Tensor::F32(t) => {
            head(out, "<f4", t.dims())?;
            numbers(out, t.data(), |x| x.to_le_bytes())
        }
        Tensor::I32(t) => {
            head(out, "<i4", t.dims())?;
            numbers(out, t.data(), |x| x.to_le_bytes())
        }
        Tensor::Bool(t) => {
            head(out, "|b1", t.dims())?;
            numbers(out, t.data(), |&x| [u8::from(x)])
        }
        Tensor::C64(t) => {
            head(out, "<c8", t.dims())?;
            numbers(out, t.data(), |x| {
                let (re, im) = (x.re.to_le_bytes(), x.im.to_le_bytes());
                [re[0], re[1], re[2], re[3], im[0], im[1], im[2], im[3]]
            })
        }
        Tensor::Str(t) => {
            let width = t.data().iter().map(|s| s.len()).max().unwrap_or(0).max(1);
            head(out, &format!("|S{width}"), t.dims())?;
            let mut field = vec![0; width];
            for s in t.data() {
                field[..s.len()].copy_from_slice(s);
                field[s.len()..].fill(0);
                out.write_all(&field)?;
            }
            Ok(())
        }
    }
}

const MAGIC: &[u8] = b"\x93NUMPY";

/// Elements converted per write: large enough to be fast, small enough to stay in the cache.
const BLOCK: usize = 4096;

fn numbers<T, const N: usize>(
    out: &mut dyn Write,
    data: &[T],
    bytes: impl Fn(&T) -> [u8; N],
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(N * BLOCK.min(data.len()));
    for block in data.chunks(BLOCK) {
        buffer.clear();
        buffer.extend(block.iter().flat_map(&bytes));
        out.write_all(&buffer)?;
    }
    Ok(())
}

fn head(out: &mut dyn Write, descr: &str, dims: &[usize]) -> io::Result<()> {
    let dims = match dims {
        [n] => format!("({n},)"),
        dims => format!("({})", dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {dims}, }}");
    // The data starts at a multiple of 64 bytes, after the magic, the version, the length and a line end.
    let before = MAGIC.len() + 4;
    while !(before + text.len() + 1).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    let len = u16::try_from(text.len()).map_err(|_| io::Error::other("a tensor of too many dimensions"))?;
    out.write_all(MAGIC)?;
    out.write_all(&[1, 0])?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(text.as_bytes())
}

/// Header text and data.
fn split(bytes: &[u8]) -> Result<(&str, &[u8]), NpyError> {
    const SHORT: NpyError = NpyError::Header("the file ends within it");
    let rest = bytes.strip_prefix(MAGIC).ok_or(NpyError::Magic)?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or(SHORT)?;
    let (len, rest) = match version[0] {
        1 => rest.split_first_chunk::<2>().map(|(n, rest)| (u32::from(u16::from_le_bytes(*n)), rest)),
        2 | 3 => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n), rest)),
        other => return Err(NpyError::Version(other)),
    }
    .ok_or(SHORT)?;
    let (text, data) = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len)).ok_or(SHORT)?;
    Ok((str::from_utf8(text).map_err(|_| NpyError::Header("it is not text"))?, data))
}

#[derive(Debug, Default)]
struct Header {
    descr: String,
    fortran: bool,
    shape: Shape,
}

impl Header {
    /// Parses the Python dictionary that NumPy writes, keys in any order.
    fn parse(text: &str) -> Result<Header, NpyError> {
        let mut header = Header::default();
        let mut seen = 0;
        let mut rest = text.trim().strip_prefix('{').ok_or(NpyError::Header("expected a dictionary"))?;
        loop {
            rest = rest.trim_start_matches([' ', ',']);
            if rest.starts_with('}') {
                break;
            }
            let (key, after) = quoted(rest).ok_or(NpyError::Header("expected a key in quotes"))?;
            rest = after
                .trim_start()
                .strip_prefix(':')
                .ok_or(NpyError::Header("expected a colon"))?
                .trim_start();
            rest = match key {
                "descr" if rest.starts_with('[') => {
                    return Err(NpyError::DType("with named fields".to_owned()));
                }
                "descr" => {
                    let (descr, rest) = quoted(rest).ok_or(NpyError::Header("descr is not a string"))?;
                    header.descr = descr.to_owned();
                    rest
                }
                "fortran_order" => {
                    header.fortran = rest.starts_with("True");
                    rest.strip_prefix("True")
                        .or_else(|| rest.strip_prefix("False"))
                        .ok_or(NpyError::Header("fortran_order is neither True nor False"))?
                }
                "shape" => {
                    let (dims, rest) = rest
                        .strip_prefix('(')
                        .and_then(|rest| rest.split_once(')'))
                        .ok_or(NpyError::Header("shape is not a tuple"))?;
                    header.shape = dims
                        .split(',')
                        .map(|d| d.trim().trim_end_matches('L'))
                        .filter(|d| !d.is_empty())
                        .map(|d| {
                            d.parse::<usize>().map_err(|_| NpyError::Header("a dimension is not a number"))
                        })
                        .collect::<Result<Vec<_>, _>>()?
                        .into();
                    rest
                }
                _ => return Err(NpyError::Header("unknown key")),
            };
            seen += 1;
        }
        if seen == 3 { Ok(header) } else { Err(NpyError::Header("descr, fortran_order or shape is missing")) }
    }
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// An element type: `<f4`, `|S7`, …
struct Kind<'a> {
    descr: &'a str,
    big_endian: bool,
    code: u8,
    /// Bytes per element.
    width: usize,
}

impl Kind<'_> {
    fn parse(descr: &str) -> Result<Kind<'_>, NpyError> {
        let unknown = || NpyError::DType(format!("`{descr}`"));
        let (order, code, size) = match descr.as_bytes() {
            [order @ (b'<' | b'>' | b'|' | b'='), code, ..] => (*order, *code, descr.get(2..)),
            [code, ..] => (b'=', *code, descr.get(1..)),
            [] => return Err(unknown()),
        };
        if code == b'O' {
            return Err(NpyError::Objects);
        }
        let size: usize = match size.unwrap_or_default() {
            "" if code == b'?' => 1,
            size => size.parse().map_err(|_| unknown())?,
        };
        let width = match (code, size) {
            (b'f', 2 | 4 | 8)
            | (b'i' | b'u', 1 | 2 | 4 | 8)
            | (b'c', 8 | 16)
            | (b'b' | b'?', 1)
            | (b'S', _) => size,
            (b'U', _) => size.checked_mul(4).ok_or_else(unknown)?,
            _ => return Err(unknown()),
        };
        Ok(Kind { descr, big_endian: order == b'>', code, width })
    }

    /// The array of `data`, whose length fits the header's shape.
    fn decode(&self, data: &[u8], header: &Header) -> Result<Tensor, NpyError> {
        match (self.code, self.width) {
            (b'f', 2) => array(header, self.each(data, |b| half::f16::from_le_bytes(b).to_f32())),
            (b'f', 4) => array(header, self.each(data, f32::from_le_bytes)),
            (b'f', _) => array(header, self.each(data, |b| f64::from_le_bytes(b) as f32)),
            (b'c', 8) => array(header, self.each(data, complex)),
            (b'c', _) => array(header, self.each(data, complex_of_doubles)),
            (b'b' | b'?', _) => array(header, data.iter().map(|&b| b != 0).collect()),
            (b'i', 1) => array(header, self.each(data, |b| i32::from(i8::from_le_bytes(b)))),
            (b'i', 2) => array(header, self.each(data, |b| i32::from(i16::from_le_bytes(b)))),
            (b'i', 4) => array(header, self.each(data, i32::from_le_bytes)),
            (b'i', _) => array(header, checked(self.each(data, i64::from_le_bytes))?),
            (b'u', 1) => array(header, self.each(data, |b| i32::from(u8::from_le_bytes(b)))),
            (b'u', 2) => array(header, self.each(data, |b| i32::from(u16::from_le_bytes(b)))),
            (b'u', 4) => array(header, checked(self.each(data, u32::from_le_bytes))?),
            (b'u', _) => array(header, checked(self.each(data, u64::from_le_bytes))?),
            (b'S', _) => array(header, self.strings(data, header, |_, raw| Ok(trimmed(raw).to_vec()))?),
            (b'U', _) => array(header, self.strings(data, header, |i, raw| self.unicode(i, raw))?),
            _ => Err(NpyError::DType(self.descr.to_owned())),
        }
    }

    /// Every element as little-endian bytes, decoded.
    fn each<T, const N: usize>(&self, data: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
        let (elements, _) = data.as_chunks::<N>();
        if self.big_endian {
            // Complex numbers are two of half the width, each reversed by itself.
            let part = if self.code == b'c' { N / 2 } else { N };
            elements
                .iter()
                .map(|e| {
                    let mut e = *e;
                    e.chunks_mut(part.max(1)).for_each(<[u8]>::reverse);
                    decode(e)
                })
                .collect()
        } else {
            elements.iter().map(|&e| decode(e)).collect()
        }
    }

    fn strings(
        &self,
        data: &[u8],
        header: &Header,
        decode: impl Fn(usize, &[u8]) -> Result<Vec<u8>, NpyError>,
    ) -> Result<Vec<TfString>, NpyError> {
        if self.width == 0 {
            return Ok(vec![TfString::default(); header.shape.elements()]);
        }
        data.chunks_exact(self.width).enumerate().map(|(i, raw)| Ok(decode(i, raw)?.into())).collect()
    }

    /// UTF-8 of an element of type `<U`, which is UTF-32.
    fn unicode(&self, index: usize, raw: &[u8]) -> Result<Vec<u8>, NpyError> {
        let code =
            |b: &[u8; 4]| if self.big_endian { u32::from_be_bytes(*b) } else { u32::from_le_bytes(*b) };
        let (codes, _) = raw.as_chunks::<4>();
        let end = codes.iter().rposition(|c| code(c) != 0).map_or(0, |last| last + 1);
        codes[..end]
            .iter()
            .map(|c| char::from_u32(code(c)).ok_or(NpyError::Unicode { index }))
            .collect::<Result<String, _>>()
            .map(String::into_bytes)
    }
}

/// NumPy pads with zero bytes and takes them off again.
fn trimmed(raw: &[u8]) -> &[u8] {
    &raw[..raw.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1)]
}

fn complex(b: [u8; 8]) -> Complex32 {
    let [a, b, c, d, e, f, g, h] = b;
    Complex32::new(f32::from_le_bytes([a, b, c, d]), f32::from_le_bytes([e, f, g, h]))
}

fn complex_of_doubles(b: [u8; 16]) -> Complex32 {
    let (parts, _) = b.as_chunks::<8>();
    Complex32::new(f64::from_le_bytes(parts[0]) as f32, f64::from_le_bytes(parts[1]) as f32)
}

fn checked<T: Into<i128> + Copy>(values: Vec<T>) -> Result<Vec<i32>, NpyError> {
    values
        .into_iter()
        .enumerate()
        .map(|(index, v)| i32::try_from(v.into()).map_err(|_| NpyError::Range { value: v.into(), index }))
        .collect()
}

fn array<T: Element>(header: &Header, data: Vec<T>) -> Result<Tensor, NpyError> {
    if header.fortran && header.shape.len() > 1 {
        let array = Array::from_shape_vec(IxDyn(&header.shape).f(), data)
            .map_err(|_| NpyError::TooLarge(header.shape.clone()))?;
        return Ok(Tensor::from(array));
    }
    Ok(Tensor::new(header.shape.clone(), data)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use num_complex::Complex32;
    use tfjs_kernels::{Tensor, TfString};

    use super::{NpyError, read, read_zip, write};

    /// A file as NumPy writes it, with `data` after the header.
    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(data);
        file
    }

    fn dict(descr: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n")
    }

    #[test]
    fn what_is_written_is_read_back() {
        let tensors = [
            Tensor::new([2, 3], vec![1.5f32, -0.0, f32::INFINITY, 3e-39, 5.0, 6.0]).unwrap(),
            Tensor::scalar(7i32),
            Tensor::vector(vec![true, false, true]),
            Tensor::new([0, 4], Vec::<i32>::new()).unwrap(),
            Tensor::vector(vec![Complex32::new(1.0, -2.0), Complex32::new(0.5, 0.25)]),
            Tensor::new([2, 1], vec![TfString::from("häh"), TfString::from("")]).unwrap(),
        ];
        for tensor in tensors {
            let mut file = Vec::new();
            write(&tensor, &mut file).unwrap();
            assert_eq!(read(&file).unwrap(), tensor);
        }
    }

    #[test]
    fn the_written_bytes_are_those_of_numpy() {
        // numpy.save(f, numpy.array([1, 2], "<i4")) with NumPy 2.1
        let mut file = Vec::new();
        write(&Tensor::vector(vec![1i32, 2]), &mut file).unwrap();
        let text = b"{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }";
        let mut expected = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        expected.extend(text);
        expected.resize(127, b' ');
        expected.extend(b"\n\x01\0\0\0\x02\0\0\0");
        assert_eq!(file, expected);
    }

    #[test]
    fn all_number_types_are_read() {
        let cases: [(&str, &[u8], Tensor); 14] = [
            ("<f2", &[0x00, 0x3c, 0x00, 0xc0], Tensor::vector(vec![1.0f32, -2.0])),
            (">f4", &[0x3f, 0x80, 0, 0, 0xc0, 0, 0, 0], Tensor::vector(vec![1.0f32, -2.0])),
            (
                "<f8",
                &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0],
                Tensor::vector(vec![1.0f32, -2.0]),
            ),
            ("|i1", &[0xff, 2], Tensor::vector(vec![-1, 2])),
            ("<i2", &[0xff, 0xff, 2, 0], Tensor::vector(vec![-1, 2])),
            (">i2", &[0xff, 0xff, 0, 2], Tensor::vector(vec![-1, 2])),
            (
                "<i8",
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0, 0, 0],
                Tensor::vector(vec![-1, 2]),
            ),
            ("|u1", &[255, 2], Tensor::vector(vec![255, 2])),
            ("<u2", &[255, 255, 2, 0], Tensor::vector(vec![65535, 2])),
            ("<u4", &[255, 0, 0, 0, 2, 0, 0, 0], Tensor::vector(vec![255, 2])),
            ("<u8", &[255, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], Tensor::vector(vec![255, 2])),
            ("|b1", &[0, 1], Tensor::vector(vec![false, true])),
            ("|S2", b"ab\0\0", Tensor::vector(vec![TfString::from("ab"), TfString::from("")])),
            (
                "<U1",
                &[0xe4, 0, 0, 0, 0, 0, 0, 0],
                Tensor::vector(vec![TfString::from("ä"), TfString::from("")]),
            ),
        ];
        for (descr, data, expected) in cases {
            assert_eq!(read(&npy(&dict(descr, "(2,)"), data)).unwrap(), expected, "{descr}");
        }
        let complex = [0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            read(&npy(&dict(">c16", "()"), &complex)).unwrap(),
            Tensor::scalar(Complex32::new(1.0, -2.0))
        );
    }

    #[test]
    fn fortran_order_is_turned_into_row_major_order() {
        let header = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }\n";
        let tensor = read(&npy(header, &[1, 4, 2, 5, 3, 6])).unwrap();
        assert_eq!(tensor, Tensor::new([2, 3], vec![1, 2, 3, 4, 5, 6]).unwrap());
    }

    #[test]
    fn malformed_files_are_refused() {
        let good = npy(&dict("<f4", "(2,)"), &[0; 8]);
        assert!(matches!(read(b"PNG"), Err(NpyError::Magic)));
        for end in 6..good.len() {
            assert!(read(&good[..end]).is_err(), "{end} bytes");
        }
        let huge = npy(&dict("<f4", "(4294967296, 4294967296, 4294967296)"), &[]);
        assert!(matches!(read(&huge), Err(NpyError::TooLarge(_))));
        assert!(matches!(read(&npy(&dict("|O", "()"), &[])), Err(NpyError::Objects)));
        assert!(matches!(read(&npy(&dict("<m8[s]", "()"), &[0; 8])), Err(NpyError::DType(_))));
        assert!(matches!(read(&npy(&dict("<f4", "(-1,)"), &[])), Err(NpyError::Header(_))));
        assert!(matches!(read(&npy("{'descr': [('a', '<f4')], }", &[])), Err(NpyError::DType(_))));
        assert!(matches!(read(&npy("{}", &[])), Err(NpyError::Header(_))));
        let large = npy(&dict("<i8", "(1,)"), &(1i64 << 31).to_le_bytes());
        assert!(matches!(read(&large), Err(NpyError::Range { value: 2147483648, index: 0 })));
        let surrogate = npy(&dict("<U1", "()"), &0xd800u32.to_le_bytes());
        assert!(matches!(read(&surrogate), Err(NpyError::Unicode { index: 0 })));
    }

    #[test]
    fn an_archive_gives_its_arrays_by_name() {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, value) in [("a/b.npy", 1), ("c.npy", 2)] {
            zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            let mut file = Vec::new();
            write(&Tensor::scalar(value), &mut file).unwrap();
            zip.write_all(&file).unwrap();
        }
        let arrays = read_zip(zip.finish().unwrap()).unwrap();
        assert_eq!(arrays, [("a/b".to_owned(), Tensor::scalar(1)), ("c".to_owned(), Tensor::scalar(2))]);
        assert!(read_zip(Cursor::new(b"PK".to_vec())).is_err());
    }
}
