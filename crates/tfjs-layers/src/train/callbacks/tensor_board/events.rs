//! Event files: TFRecords of `Event` messages with scalars, as TensorFlow 2 writes them.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use prost::Message;
use tfjs_format::proto::{DataType, TensorProto, TensorShapeProto};

use crate::LayersError;

/// `tensorflow.Event`, as far as it is needed here.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    #[prost(double, tag = "1")]
    pub(super) wall_time: f64,
    #[prost(int64, tag = "2")]
    pub(super) step: i64,
    #[prost(string, optional, tag = "3")]
    pub(super) file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    pub(super) summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub(super) value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SummaryValue {
    #[prost(string, tag = "1")]
    pub(super) tag: String,
    #[prost(message, optional, tag = "8")]
    pub(super) tensor: Option<TensorProto>,
    #[prost(message, optional, tag = "9")]
    pub(super) metadata: Option<SummaryMetadata>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SummaryMetadata {
    #[prost(message, optional, tag = "1")]
    pub(super) plugin_data: Option<PluginData>,
    /// 1 is a scalar.
    #[prost(int32, tag = "4")]
    pub(super) data_class: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PluginData {
    #[prost(string, tag = "1")]
    pub(super) plugin_name: String,
}

/// Files of one process must not share a name.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Appends to an event file.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
}

impl Writer {
    /// A new file in a directory, which is made if necessary.
    pub(super) fn create(directory: &Path) -> Result<Writer, LayersError> {
        let failed =
            |path: &Path, source| LayersError::File { action: "write", path: path.to_owned(), source };
        fs::create_dir_all(directory).map_err(|e| failed(directory, e))?;
        let name = format!(
            "events.out.tfevents.{:010}.{}.{}.{}.v2",
            now() as u64,
            host(),
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = directory.join(name);
        let file = File::create_new(&path).map_err(|e| failed(&path, e))?;
        let mut writer = Writer { path, out: BufWriter::new(file) };
        let version = Some("brain.Event:2".to_owned());
        writer.write(&Event { wall_time: now(), file_version: version, ..Event::default() })?;
        Ok(writer)
    }

    pub(super) fn scalar(&mut self, step: u64, tag: &str, value: f64) -> Result<(), LayersError> {
        let tensor = TensorProto {
            dtype: DataType::DtFloat.into(),
            tensor_shape: Some(TensorShapeProto::default()),
            float_val: vec![value as f32],
            ..TensorProto::default()
        };
        let plugin_data = Some(PluginData { plugin_name: "scalars".to_owned() });
        let value = SummaryValue {
            tag: tag.to_owned(),
            tensor: Some(tensor),
            metadata: Some(SummaryMetadata { plugin_data, data_class: 1 }),
        };
        self.write(&Event {
            wall_time: now(),
            step: i64::try_from(step).unwrap_or(i64::MAX),
            summary: Some(Summary { value: vec![value] }),
            ..Event::default()
        })
    }

    fn write(&mut self, event: &Event) -> Result<(), LayersError> {
        let written = record(&mut self.out, &event.encode_to_vec());
        written.map_err(|e| self.failed(e))
    }

    pub(super) fn flush(&mut self) -> Result<(), LayersError> {
        self.out.flush().map_err(|e| self.failed(e))
    }

    fn failed(&self, source: io::Error) -> LayersError {
        LayersError::File { action: "write", path: self.path.clone(), source }
    }
}

/// Length, its checksum, the data, their checksum.
fn record(out: &mut impl Write, data: &[u8]) -> io::Result<()> {
    let length = (data.len() as u64).to_le_bytes();
    out.write_all(&length)?;
    out.write_all(&masked_crc(&length).to_le_bytes())?;
    out.write_all(data)?;
    out.write_all(&masked_crc(data).to_le_bytes())
}

/// TFRecord's checksum: rotated and shifted, so that checksums of checksums are no problem.
pub(super) fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The machine's name, as far as the system tells without being asked twice.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("COMPUTERNAME").ok()).unwrap_or_default();
    let name: String =
        name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tfjs_format::proto::DataType;

    use super::{Event, Writer, masked_crc, record};

    /// The bytes are those of `tf.io.TFRecordWriter().write(b"tfjs")`.
    #[test]
    fn records_are_framed_as_tensorflow_frames_them() {
        let mut out = Vec::new();
        record(&mut out, b"tfjs").unwrap();
        assert_eq!(out, RECORD);
    }

    const RECORD: [u8; 20] = [4, 0, 0, 0, 0, 0, 0, 0, 66, 69, 82, 4, 116, 102, 106, 115, 70, 253, 174, 154];

    #[test]
    fn scalars_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(dir.path()).unwrap();
        writer.scalar(3, "epoch_loss", 0.25).unwrap();
        writer.flush().unwrap();
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap()).collect();
        assert!(files[0].file_name().to_str().unwrap().starts_with("events.out.tfevents."));
        let bytes = std::fs::read(files[0].path()).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<8>().unwrap();
            let (crc, after) = after.split_first_chunk::<4>().unwrap();
            assert_eq!(u32::from_le_bytes(*crc), masked_crc(length));
            let (data, after) = after.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
            let (crc, after) = after.split_first_chunk::<4>().unwrap();
            assert_eq!(u32::from_le_bytes(*crc), masked_crc(data));
            events.push(Event::decode(data).unwrap());
            rest = after;
        }
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        let value = &events[1].summary.as_ref().unwrap().value[0];
        let tensor = value.tensor.as_ref().unwrap();
        assert_eq!((events[1].step, value.tag.as_str()), (3, "epoch_loss"));
        assert_eq!((tensor.dtype, tensor.float_val.as_slice()), (DataType::DtFloat as i32, &[0.25][..]));
        assert_eq!(value.metadata.as_ref().unwrap().plugin_data.as_ref().unwrap().plugin_name, "scalars");
    }
}
