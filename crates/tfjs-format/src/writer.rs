//! Writing weights: one stream of bytes per group, cut into shards.
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::io::ModelSink;
use crate::{FormatError, WeightSpec};

/// Bytes per shard unless another size is asked for: 4 MiB, as in the reference.
pub const DEFAULT_SHARD_SIZE: u64 = 4 << 20;

/// How to cut shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardOptions {
    /// Bytes per shard; cuts go through tensors and elements.
    pub size: u64,
    /// Whether to compute the SHA-256 of every shard.
    pub sha256: bool,
}

impl Default for ShardOptions {
    fn default() -> ShardOptions {
        ShardOptions { size: DEFAULT_SHARD_SIZE, sha256: false }
    }
}

/// The shards of a group once they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shards {
    /// Their names, for the manifest; none when the group has no bytes.
    pub paths: Vec<String>,
    /// Bytes in all of them.
    pub bytes: u64,
    /// Their digests in lower-case hexadecimal, if asked for.
    pub sha256: Vec<String>,
}

/// Cuts the weights of a group into shards while they come.
///
/// The number of shards is part of their names, so the size of the group is given first:
///
/// ```
/// use tfjs_format::io::{MemorySink, ModelSink};
/// use tfjs_format::{group_bytes, DType, ShardOptions, ShardWriter, WeightSpec};
/// let spec = WeightSpec::new("w", [3], DType::Int32);
/// let mut sink = MemorySink::default();
/// let total = group_bytes(std::slice::from_ref(&spec), |_| 0)?;
/// let mut writer = ShardWriter::new(&mut sink, 1, total, ShardOptions { size: 8, sha256: false })?;
/// writer.write_weight(&spec, &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0])?;
/// let shards = writer.finish()?;
/// assert_eq!(shards.paths, ["group1-shard1of2.bin", "group1-shard2of2.bin"]);
/// # sink.finish("{}")?;
/// # assert_eq!(&sink.into_model().unwrap().files["group1-shard2of2.bin"][..], [3, 0, 0, 0]);
/// # Ok::<(), tfjs_format::FormatError>(())
/// ```
pub struct ShardWriter<'s> {
    sink: &'s mut dyn ModelSink,
    options: ShardOptions,
    group: usize,
    total: u64,
    count: u64,
    written: u64,
    shards: Shards,
    hasher: Sha256,
}

impl<'s> ShardWriter<'s> {
    /// A writer for group number `group` (from 1) of `total` bytes.
    ///
    /// # Errors
    /// When the shard size is zero.
    pub fn new(
        sink: &'s mut dyn ModelSink,
        group: usize,
        total: u64,
        options: ShardOptions,
    ) -> Result<ShardWriter<'s>, FormatError> {
        if options.size == 0 {
            return Err(FormatError::ZeroShardSize);
        }
        Ok(ShardWriter {
            sink,
            options,
            group,
            total,
            count: total.div_ceil(options.size),
            written: 0,
            shards: Shards::default(),
            hasher: Sha256::new(),
        })
    }

    /// Appends the stored bytes of a weight.
    ///
    /// # Errors
    /// When the number of bytes is not the one that shape and type ask for, and as for [`ShardWriter::write`].
    pub fn write_weight(&mut self, spec: &WeightSpec, bytes: &[u8]) -> Result<(), FormatError> {
        if let Some(expected) = spec.byte_len()?
            && expected != bytes.len()
        {
            return Err(FormatError::WriteSize {
                weight: spec.name.clone(),
                expected: expected as u64,
                found: bytes.len() as u64,
            });
        }
        self.write(bytes)
    }

    /// Appends a part of a weight, for those that come in pieces. Nothing is buffered here.
    ///
    /// # Errors
    /// When more comes than was announced, or the sink fails.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), FormatError> {
        let after = self.written.saturating_add(bytes.len() as u64);
        if after > self.total {
            return Err(self.wrong_size(after));
        }
        while !bytes.is_empty() {
            let in_shard = self.written % self.options.size;
            if in_shard == 0 {
                self.begin_shard()?;
            }
            let room = usize::try_from(self.options.size - in_shard).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.sink.write(now)?;
            if self.options.sha256 {
                self.hasher.update(now);
            }
            self.written += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Ends the group.
    ///
    /// # Errors
    /// When less came than was announced.
    pub fn finish(mut self) -> Result<Shards, FormatError> {
        if self.written != self.total {
            return Err(self.wrong_size(self.written));
        }
        self.end_digest();
        self.shards.bytes = self.written;
        Ok(self.shards)
    }

    fn begin_shard(&mut self) -> Result<(), FormatError> {
        self.end_digest();
        let number = self.shards.paths.len() + 1;
        let path = self.sink.path_for(&format!("group{}-shard{number}of{}.bin", self.group, self.count));
        self.sink.begin(&path)?;
        self.shards.paths.push(path);
        Ok(())
    }

    fn end_digest(&mut self) {
        if self.options.sha256 && !self.shards.paths.is_empty() {
            let digest = self.hasher.finalize_reset();
            self.shards.sha256.push(digest.iter().map(|byte| format!("{byte:02x}")).collect());
        }
    }

    fn wrong_size(&self, found: u64) -> FormatError {
        FormatError::WriteSize { weight: format!("group {}", self.group), expected: self.total, found }
    }
}

/// Stored bytes of these weights; `string_bytes` gives those of a string weight (see [`string_bytes`]).
///
/// # Errors
/// When a size overflows.
pub fn group_bytes(
    weights: &[WeightSpec],
    mut string_bytes: impl FnMut(&WeightSpec) -> u64,
) -> Result<u64, FormatError> {
    weights.iter().try_fold(0u64, |total, spec| {
        let bytes = match spec.byte_len()? {
            Some(bytes) => bytes as u64,
            None => string_bytes(spec),
        };
        total.checked_add(bytes).ok_or_else(|| FormatError::SizeOverflow {
            name: spec.name.clone(),
            shape: spec.shape.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect(),
        })
    })
}

/// Stored bytes of a string weight with these elements.
pub fn string_bytes(items: &[Bytes]) -> u64 {
    items.iter().map(|item| item.len() as u64 + 4).sum()
}

/// The stored form of a string weight: per element a little-endian `u32` length and its bytes.
///
/// # Errors
/// When an element has 4 GiB or more.
pub fn encode_strings(items: &[Bytes]) -> Result<Vec<u8>, FormatError> {
    let mut out = Vec::new();
    for item in items {
        let len = u32::try_from(item.len()).map_err(|_| FormatError::SizeOverflow {
            name: "string element".to_owned(),
            shape: vec![i64::try_from(item.len()).unwrap_or(i64::MAX)],
        })?;
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(item);
    }
    Ok(out)
}
