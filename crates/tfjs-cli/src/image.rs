//! Pictures as inputs: decoded, resized to the input's shape, and normalised.

use clap::Args as ClapArgs;
use image::{DynamicImage, ImageDecoder, ImageReader, imageops::FilterType};
use std::io::{self, Cursor};
use tfjs_kernels::{DType, KernelError, Tensor};

/// What can go wrong with a picture.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("cannot be read")]
    Io(#[from] io::Error),
    #[error(
        "not a picture that can be decoded; .jpg, .png, .gif, .bmp and .webp are read, and .npy and .npz arrays"
    )]
    Decode(#[from] image::ImageError),
    #[error("a picture does not fit an input of shape {0}; give the array as .npy")]
    Shape(String),
    #[error("a picture does not fit an input of type {0}")]
    DType(&'static str),
    #[error(
        "--{option} has {found} values for a picture of {channels} channels; give one, or one per channel"
    )]
    Channels { option: &'static str, found: usize, channels: usize },
    #[error("the tensor cannot be made")]
    Tensor(#[from] KernelError),
}

/// `(value - mean) / scale`, with one number for all channels or one per channel.
#[derive(Clone, Debug, PartialEq, ClapArgs)]
pub(crate) struct Normalise {
    /// Pictures: subtracted from every value (0 to 255), once for all channels or per channel
    #[arg(
        long,
        value_name = "X[,X..]",
        value_delimiter = ',',
        default_value = "0",
        allow_negative_numbers = true
    )]
    pub(crate) mean: Vec<f32>,
    /// Pictures: what every value is divided by after that, once for all channels or per channel
    #[arg(long, value_name = "X[,X..]", value_delimiter = ',', default_value = "1", value_parser = scale)]
    pub(crate) scale: Vec<f32>,
}

fn scale(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if x.is_finite() && x != 0.0 => Ok(x),
        _ => Err("expected a number other than 0".to_owned()),
    }
}

/// Where an input has its rows, columns and channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    batch: bool,
    height: Option<usize>,
    width: Option<usize>,
    channels: usize,
    channels_first: bool,
}

/// The tensor of a picture, for an input of this type and shape (whatever of it is known). Values are 0 to 255
/// before normalising.
///
/// # Errors
/// When the file is not a picture, or no picture fits the input.
pub(crate) fn read(
    bytes: Vec<u8>,
    dtype: Option<DType>,
    shape: Option<&[Option<usize>]>,
    normalise: &Normalise,
) -> Result<Tensor, ImageError> {
    let layout = Layout::of(shape)?;
    let mut decoder = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    let height = layout.height.unwrap_or(picture.height() as usize);
    let width = layout.width.unwrap_or(picture.width() as usize);
    let size = |n: usize| u32::try_from(n).ok().filter(|&n| n > 0);
    let (Some(w), Some(h)) = (size(width), size(height)) else {
        return Err(ImageError::Shape(format!("{height}×{width}")));
    };
    if (w, h) != (picture.width(), picture.height()) {
        picture = picture.resize_exact(w, h, FilterType::Triangle);
    }
    let pixels = match layout.channels {
        1 => picture.into_luma8().into_raw(),
        3 => picture.into_rgb8().into_raw(),
        _ => picture.into_rgba8().into_raw(),
    };
    layout.tensor(&pixels, [height, width], dtype.unwrap_or(DType::Float32), normalise)
}

/// Width and height of a picture, from its header.
///
/// # Errors
/// When the file is not a picture.
pub(crate) fn size(path: &std::path::Path) -> Result<(u32, u32), ImageError> {
    Ok(ImageReader::open(path)?.with_guessed_format()?.into_dimensions()?)
}

impl Layout {
    fn of(shape: Option<&[Option<usize>]>) -> Result<Layout, ImageError> {
        let any = Layout { batch: true, height: None, width: None, channels: 3, channels_first: false };
        let Some(dims) = shape else { return Ok(any) };
        let colours = |n: Option<usize>| matches!(n, None | Some(1 | 3 | 4));
        let layout = match *dims {
            [Some(0) | Some(2..), _, _, _] => None,
            [_, height, width, c] if colours(c) && (c.is_some() || !matches!(dims[1], Some(1 | 3))) => {
                Some(Layout { height, width, channels: c.unwrap_or(3), ..any })
            }
            [_, Some(c @ (1 | 3 | 4)), height, width] => {
                Some(Layout { height, width, channels: c, channels_first: true, ..any })
            }
            [height, width, c] if colours(c) => {
                Some(Layout { batch: false, height, width, channels: c.unwrap_or(3), ..any })
            }
            [Some(c @ (1 | 3 | 4)), height, width] => {
                Some(Layout { batch: false, height, width, channels: c, channels_first: true })
            }
            _ => None,
        };
        layout.ok_or_else(|| ImageError::Shape(crate::show::shape(dims)))
    }

    fn tensor(
        &self,
        pixels: &[u8],
        [height, width]: [usize; 2],
        dtype: DType,
        normalise: &Normalise,
    ) -> Result<Tensor, ImageError> {
        let channels = self.channels;
        let per_channel = |values: &[f32], option| match *values {
            [one] => Ok(vec![one; channels]),
            ref all if all.len() == channels => Ok(all.to_vec()),
            ref all => Err(ImageError::Channels { option, found: all.len(), channels }),
        };
        let mean = per_channel(&normalise.mean, "mean")?;
        let scale = per_channel(&normalise.scale, "scale")?;
        let value = |c: usize, pixel: u8| (f32::from(pixel) - mean[c]) / scale[c];
        let values: Vec<f32> = if self.channels_first {
            (0..channels)
                .flat_map(|c| pixels.iter().skip(c).step_by(channels).map(move |&p| (c, p)))
                .map(|(c, p)| value(c, p))
                .collect()
        } else {
            pixels.iter().enumerate().map(|(i, &p)| value(i % channels, p)).collect()
        };
        let mut dims =
            if self.channels_first { vec![channels, height, width] } else { vec![height, width, channels] };
        if self.batch {
            dims.insert(0, 1);
        }
        Ok(match dtype {
            DType::Float32 => Tensor::new(dims, values)?,
            DType::Int32 => Tensor::new(dims, values.iter().map(|v| v.round() as i32).collect())?,
            other => return Err(ImageError::DType(other.name())),
        })
    }
}
