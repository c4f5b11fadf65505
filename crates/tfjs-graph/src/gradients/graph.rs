//! Identities, selections and fake quantization.
use super::{GradCx, Result, Row, row};

pub(super) const RULES: &[Row] = &[
    row("CheckNumerics", identity),
    row("CheckNumericsV2", identity),
    row("DeepCopy", identity),
    row("FakeQuantWithMinMaxArgs", |c| {
        let (x, dy) = (c.x(0), c.dy()?);
        let names = ["min", "max", "num_bits", "narrow_range"];
        let g = c.op_with("FakeQuantWithMinMaxArgsGradient", &[dy, x], &names)?;
        c.set(0, g)
    }),
    row("FakeQuantWithMinMaxVars", |c| fake_quant(c, "FakeQuantWithMinMaxVarsGradient")),
    row("FakeQuantWithMinMaxVarsPerChannel", |c| fake_quant(c, "FakeQuantWithMinMaxVarsPerChannelGradient")),
    row("Identity", |c| match c.raw_dy() {
        Some(dy) => c.set_any(0, dy),
        None => Ok(()),
    }),
    row("IdentityN", |c| {
        for i in 0..c.inputs() {
            if let Some(dy) = c.dy_of(i)? {
                c.set(i, dy)?;
            }
        }
        Ok(())
    }),
    row("PlaceholderWithDefault", identity),
    row("Print", identity),
    row("Select", |c| {
        let (condition, dy) = (c.x(0), c.dy()?);
        let zeros = c.un("ZerosLike", dy)?;
        if c.wants(1) {
            let g = c.op("Select", &[condition, dy, zeros], &[])?;
            c.set(1, g)?;
        }
        if c.wants(2) {
            let g = c.op("Select", &[condition, zeros, dy], &[])?;
            c.set(2, g)?;
        }
        Ok(())
    }),
    row("SelectV2", |c| {
        let (condition, dy) = (c.x(0), c.dy()?);
        if c.wants(1) {
            let g = c.only_where(condition, dy)?;
            c.set_reduced(1, g)?;
        }
        if c.wants(2) {
            let g = c.unless(condition, dy)?;
            c.set_reduced(2, g)?;
        }
        Ok(())
    }),
    row("Snapshot", identity),
];

fn identity(c: &mut GradCx<'_>) -> Result<()> {
    let dy = c.dy()?;
    c.set(0, dy)
}

fn fake_quant(c: &mut GradCx<'_>, op: &str) -> Result<()> {
    let (x, min, max, dy) = (c.x(0), c.x(1), c.x(2), c.dy()?);
    let attrs = c.copied(&["num_bits", "narrow_range"]);
    let attrs: Vec<_> = attrs.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    for (i, g) in c.b.op_n(op, &[dy, x, min, max], &attrs, 3)?.into_iter().enumerate() {
        c.set(i, g)?;
    }
    Ok(())
}
