//! `SpaceToBatchND`, `BatchToSpaceND`, `SpaceToDepth`, `DepthToSpace`: a reshape, a transpose, a reshape.
use crate::{
    KernelError, Result, Shape, Tensor, linalg,
    movement::{self, Axis},
    transform::pad,
};

/// Where the channels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceFormat {
    /// `[batch, height, width, channels]`
    Nhwc,
    /// `[batch, channels, height, width]`
    Nchw,
}

fn blocks(block: &[i32], rank: usize) -> Result<Vec<usize>> {
    let wrong = |expected| KernelError::Argument { what: "block_shape", got: format!("{block:?}"), expected };
    if block.len() >= rank {
        return Err(wrong("shorter than the input has dimensions"));
    }
    block
        .iter()
        .map(|&b| usize::try_from(b).ok().filter(|&b| b > 0).ok_or_else(|| wrong("positive sizes")))
        .collect()
}

/// `paddings` or `crops: [m, 2]` with a row of zeros for the batch in front and for every dimension behind.
fn all_dims(amounts: &Tensor, blocks: usize, rank: usize) -> Result<Tensor> {
    let data = amounts.typed::<i32>("paddings")?;
    if data.dims() != [blocks, 2] {
        return Err(KernelError::Rank {
            what: "paddings",
            got: data.shape(),
            expected: "two values per block dimension",
        });
    }
    let mut all = vec![0; rank * 2];
    all[2..2 + blocks * 2].copy_from_slice(data.data());
    Tensor::new([rank, 2], all)
}

/// Shape of [`space_to_batch`]'s result.
///
/// # Errors
/// As [`space_to_batch`].
pub fn space_to_batch_shape(dims: &[usize], block: &[i32], paddings: &Tensor) -> Result<Shape> {
    let sizes = blocks(block, dims.len())?;
    let mut shape = pad::padded_shape(dims, &all_dims(paddings, sizes.len(), dims.len())?)?;
    for (d, b) in sizes.into_iter().enumerate() {
        if shape[d + 1] % b != 0 {
            return Err(KernelError::Argument {
                what: "a padded dimension",
                got: shape[d + 1].to_string(),
                expected: "a multiple of its block",
            });
        }
        shape[d + 1] /= b;
        shape[0] =
            shape[0].checked_mul(b).ok_or_else(|| KernelError::TooLarge { shape: shape.to_string() })?;
    }
    Ok(shape)
}

/// Cuts the padded dimensions `1..=m` into blocks and moves the position inside a block to the batch.
///
/// `paddings: [m, 2]` with `m = block.len()`.
///
/// # Errors
/// [`KernelError`] when block or paddings do not fit the input, or a padded dimension is not a multiple of its
/// block.
pub fn space_to_batch(input: Tensor, block: &[i32], paddings: &Tensor) -> Result<Tensor> {
    let shape = space_to_batch_shape(input.dims(), block, paddings)?;
    let sizes = blocks(block, input.rank())?;
    let m = sizes.len();
    let padded = pad::pad(input, &all_dims(paddings, m, shape.len())?, None)?;
    // [n, d1/b1, b1, d2/b2, b2, …, rest] → [b1, b2, …, n, d1/b1, d2/b2, …, rest]
    let mut cut = Shape::from([padded.dims()[0]]);
    for (d, b) in sizes.iter().enumerate() {
        cut.push(shape[d + 1]);
        cut.push(*b);
    }
    shape[m + 1..].iter().for_each(|&d| cut.push(d));
    let perm: Vec<usize> = (0..m)
        .map(|d| 2 * d + 2)
        .chain([0])
        .chain((0..m).map(|d| 2 * d + 1))
        .chain(2 * m + 1..cut.len())
        .collect();
    permuted(padded, cut, &perm, shape)
}

/// Shape of [`batch_to_space`]'s result.
///
/// # Errors
/// As [`batch_to_space`].
pub fn batch_to_space_shape(dims: &[usize], block: &[i32], crops: &Tensor) -> Result<Shape> {
    let sizes = blocks(block, dims.len())?;
    let crops = all_dims(crops, sizes.len(), dims.len())?;
    let crops = crops.typed::<i32>("crops")?.data();
    let mut shape = Shape::from(dims);
    for (d, b) in sizes.into_iter().enumerate() {
        if !shape[0].is_multiple_of(b) {
            return Err(KernelError::Argument {
                what: "the batch size",
                got: dims[0].to_string(),
                expected: "a multiple of the product of the blocks",
            });
        }
        shape[0] /= b;
        let crop =
            movement::count("a crop", crops[2 * d + 2])? + movement::count("a crop", crops[2 * d + 3])?;
        let size = shape[d + 1].checked_mul(b).and_then(|n| n.checked_sub(crop));
        shape[d + 1] = size.ok_or_else(|| KernelError::Argument {
            what: "the crops of a dimension",
            got: crop.to_string(),
            expected: "at most the dimension times its block",
        })?;
    }
    shape.checked_len()?;
    Ok(shape)
}

/// The inverse of [`space_to_batch`], with `crops: [m, 2]` cut off afterwards.
///
/// # Errors
/// [`KernelError`] when block or crops do not fit the input.
pub fn batch_to_space(input: Tensor, block: &[i32], crops: &Tensor) -> Result<Tensor> {
    let shape = batch_to_space_shape(input.dims(), block, crops)?;
    let sizes = blocks(block, input.rank())?;
    let m = sizes.len();
    // [b1, b2, …, n, d1, d2, …, rest] → [n, d1, b1, d2, b2, …, rest]
    let mut cut: Shape = sizes.iter().copied().chain([shape[0]]).collect();
    input.dims()[1..].iter().for_each(|&d| cut.push(d));
    let perm: Vec<usize> =
        [m].into_iter().chain((0..m).flat_map(|d| [m + 1 + d, d])).chain(2 * m + 1..cut.len()).collect();
    let mut whole = shape.clone();
    for (d, b) in sizes.iter().enumerate() {
        whole[d + 1] = input.dims()[d + 1] * b;
    }
    let whole = permuted(input, cut, &perm, whole)?;
    if whole.dims() == &shape[..] {
        return Ok(whole);
    }
    let crops = all_dims(crops, m, shape.len())?;
    let axes: Vec<Axis> = crops
        .typed::<i32>("crops")?
        .data()
        .chunks_exact(2)
        .zip(shape.iter())
        .map(|(c, &len)| Axis::range(c[0] as usize, 1, len))
        .collect();
    let dims = whole.shape();
    crate::match_tensor!(&whole, t => Tensor::from_buffer(shape, movement::gather(t.data(), &dims, &axes, &Default::default())))
}

/// Moves channels into blocks of space: `[n, h, w, b·b·c]` → `[n, h·b, w·b, c]`.
///
/// # Errors
/// [`KernelError`] when the input has not four dimensions, the block is below 2, or the channels are not a
/// multiple of its square.
pub fn depth_to_space(input: Tensor, block: usize, format: SpaceFormat) -> Result<Tensor> {
    let [n, h, w, c] = four(&input, block, format)?;
    if c % (block * block) != 0 {
        return Err(not_multiple("the number of channels", c));
    }
    let (b, c) = (block, c / (block * block));
    match format {
        SpaceFormat::Nhwc => {
            permuted(input, [n, h, w, b, b, c].into(), &[0, 1, 3, 2, 4, 5], [n, h * b, w * b, c].into())
        }
        SpaceFormat::Nchw => {
            permuted(input, [n, b, b, c, h, w].into(), &[0, 3, 4, 1, 5, 2], [n, c, h * b, w * b].into())
        }
    }
}

/// Moves blocks of space into channels: `[n, h·b, w·b, c]` → `[n, h, w, b·b·c]`.
///
/// # Errors
/// [`KernelError`] when the input has not four dimensions, the block is below 2, or height or width are not
/// multiples of it.
pub fn space_to_depth(input: Tensor, block: usize, format: SpaceFormat) -> Result<Tensor> {
    let [n, h, w, c] = four(&input, block, format)?;
    if h % block != 0 || w % block != 0 {
        return Err(not_multiple("the size of the image", if h % block != 0 { h } else { w }));
    }
    let (b, h, w) = (block, h / block, w / block);
    match format {
        SpaceFormat::Nhwc => {
            permuted(input, [n, h, b, w, b, c].into(), &[0, 1, 3, 2, 4, 5], [n, h, w, b * b * c].into())
        }
        SpaceFormat::Nchw => {
            permuted(input, [n, c, h, b, w, b].into(), &[0, 3, 5, 1, 2, 4], [n, b * b * c, h, w].into())
        }
    }
}

fn not_multiple(what: &'static str, got: usize) -> KernelError {
    KernelError::Argument { what, got: got.to_string(), expected: "a multiple of the block" }
}

/// Batch, height, width, channels.
fn four(input: &Tensor, block: usize, format: SpaceFormat) -> Result<[usize; 4]> {
    if !(2..=0xffff).contains(&block) {
        return Err(KernelError::Argument {
            what: "block_size",
            got: block.to_string(),
            expected: "at least 2",
        });
    }
    match *input.dims() {
        [n, h, w, c] if format == SpaceFormat::Nhwc => Ok([n, h, w, c]),
        [n, c, h, w] => Ok([n, h, w, c]),
        _ => Err(KernelError::Rank { what: "the input", got: input.shape(), expected: "four dimensions" }),
    }
}

fn permuted(input: Tensor, cut: Shape, perm: &[usize], shape: Shape) -> Result<Tensor> {
    crate::match_tensor!(input, t => Tensor::from_buffer(shape, linalg::permuted(&t.reshape(cut)?, perm)))
}

#[cfg(test)]
mod tests {
    use super::{SpaceFormat, batch_to_space, depth_to_space, space_to_batch, space_to_depth};
    use crate::Tensor;

    fn range(shape: [usize; 4]) -> Tensor {
        Tensor::new(shape, (0..shape.iter().product::<usize>() as i32).collect::<Vec<_>>()).unwrap()
    }

    fn pairs(v: [i32; 4]) -> Tensor {
        Tensor::new([2, 2], v.to_vec()).unwrap()
    }

    // Values from TensorFlow 2.19.
    #[test]
    fn blocks_move_between_space_and_batch() {
        let t = space_to_batch(range([1, 2, 3, 1]), &[2, 2], &pairs([0, 0, 0, 1])).unwrap();
        assert_eq!((t.dims(), t.data::<i32>().unwrap()), (&[4, 1, 2, 1][..], &[0, 2, 1, 0, 3, 5, 4, 0][..]));
        let t = batch_to_space(range([4, 1, 2, 1]), &[2, 2], &pairs([0, 0, 1, 0])).unwrap();
        assert_eq!((t.dims(), t.data::<i32>().unwrap()), (&[1, 2, 3, 1][..], &[2, 1, 3, 6, 5, 7][..]));
    }

    #[test]
    fn blocks_move_between_space_and_depth() {
        let t = depth_to_space(range([1, 1, 2, 4]), 2, SpaceFormat::Nhwc).unwrap();
        assert_eq!((t.dims(), t.data::<i32>().unwrap()), (&[1, 2, 4, 1][..], &[0, 1, 4, 5, 2, 3, 6, 7][..]));
        let t = space_to_depth(range([1, 2, 4, 2]), 2, SpaceFormat::Nhwc).unwrap();
        assert_eq!(t.data::<i32>().unwrap(), [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]);
    }
}
