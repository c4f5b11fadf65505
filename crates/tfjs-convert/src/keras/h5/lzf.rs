//! The LZF compression that h5py offers.

/// Filter id of LZF in HDF5 files.
pub(super) const ID: u16 = 32000;

/// The unpacked bytes; `None` when `packed` is broken. They are at most 90 times as many.
///
/// A control byte below 32 starts a run of `control + 1` literal bytes. Any other repeats what was unpacked before:
/// its upper three bits are the length less 2 (7 stands for 7 plus the next byte), and the lower five with the byte
/// after are the distance less 1.
pub(super) fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(packed.len().saturating_mul(2));
    let mut input = packed.iter();
    while let Some(&control) = input.next() {
        if control < 32 {
            let (literal, rest) = input.as_slice().split_at_checked(usize::from(control) + 1)?;
            out.extend_from_slice(literal);
            input = rest.iter();
            continue;
        }
        let mut len = usize::from(control >> 5) + 2;
        if len == 9 {
            len += usize::from(*input.next()?);
        }
        let distance = (usize::from(control & 31) << 8) + usize::from(*input.next()?) + 1;
        let from = out.len().checked_sub(distance)?;
        // Byte by byte: the part copied may reach into what it is copied to.
        for at in from..from + len {
            out.push(out[at]);
        }
    }
    Some(out)
}
