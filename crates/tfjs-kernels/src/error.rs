use tfjs_format::DType;

use crate::Shape;

/// Why a kernel refused its inputs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A tensor has the wrong element type.
    #[error("{what} is {got}, expected {expected}")]
    DType {
        /// Which operand.
        what: &'static str,
        /// Its element type.
        got: DType,
        /// What the kernel takes, in words.
        expected: &'static str,
    },
    /// A tensor has the wrong number of dimensions.
    #[error("{what} has shape {got}, expected {expected}")]
    Rank {
        /// Which operand.
        what: &'static str,
        /// Its shape.
        got: Shape,
        /// What the kernel takes, in words.
        expected: &'static str,
    },
    /// Two shapes do not go together.
    #[error("shapes {left} and {right} {why}")]
    Shapes {
        /// One shape.
        left: Shape,
        /// The other.
        right: Shape,
        /// What they fail to do, such as "cannot be broadcast together".
        why: &'static str,
    },
    /// Data does not fill its shape.
    #[error("{got} values do not fill shape {shape}")]
    Length {
        /// Number of values.
        got: usize,
        /// The shape.
        shape: Shape,
    },
    /// An index or axis is outside its range.
    #[error("{what} {got} is not in [{min}, {max})")]
    Range {
        /// What was out of range, such as "axis".
        what: &'static str,
        /// Its value.
        got: i64,
        /// Smallest allowed value.
        min: i64,
        /// First value that is too large.
        max: i64,
    },
    /// An argument has a value that the kernel does not take.
    #[error("{what} is {got}, expected {expected}")]
    Argument {
        /// Which argument.
        what: &'static str,
        /// Its value.
        got: String,
        /// What the kernel takes, in words.
        expected: &'static str,
    },
    /// A filter and an image have different numbers of channels.
    #[error("the filter expects {expected} channels, the image has {got}")]
    Channels {
        /// Channels that the filter takes.
        expected: usize,
        /// Channels of the image.
        got: usize,
    },
    /// A window is larger than the padded image.
    #[error("a window of {window} cells does not fit into {cells} cells of image and padding")]
    Window {
        /// Cells from the first to the last position of the window.
        window: u64,
        /// Cells of the image and its padding.
        cells: u64,
    },
    /// The result would be larger than the address space or the allowed maximum.
    #[error("the result would have shape {shape}, which is too large")]
    TooLarge {
        /// The shape asked for.
        shape: String,
    },
}
