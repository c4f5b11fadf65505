//! RNN, SimpleRNN, GRU, LSTM, ConvLSTM and their cells.

use crate::LayerDef;

pub(super) const LAYERS: &[LayerDef] = &[];
