//! Paths with placeholders, as Python's `str.format` fills them: `{epoch:02d}-{val_loss:.2f}`.

use crate::LayersError;

/// A path with placeholders.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Field(String, Spec),
}

/// `[[fill]align][sign][0][width][.precision][type]`
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spec {
    fill: char,
    /// `<`, `>`, `^`, or `=`: behind the sign.
    align: Option<char>,
    /// `+`, ` ` or `-`.
    sign: char,
    width: usize,
    precision: Option<usize>,
    kind: Option<char>,
}

/// A value of a placeholder.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Whole(usize),
    Real(f64),
}

/// Widths and precisions beyond this are mistakes.
const LIMIT: usize = 100;

fn wrong(template: &str, problem: &str) -> LayersError {
    LayersError::Argument { argument: "path".to_owned(), problem: format!("`{template}`: {problem}") }
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Template, LayersError> {
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain += &rest[..at];
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                plain += brace;
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(wrong(text, "a single `}` stands in it; write `}}`"));
            }
            let (field, after) = rest.split_once('}').ok_or_else(|| wrong(text, "a `}` is missing"))?;
            rest = after;
            let (name, spec) = field.split_once(':').unwrap_or((field, ""));
            if name.is_empty() || name.contains(['{', '!', '[']) {
                return Err(wrong(text, &format!("`{{{field}}}` is not a name and a format")));
            }
            let spec = Spec::parse(spec)
                .ok_or_else(|| wrong(text, &format!("`{spec}` is not a format of numbers")))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Field(name.to_owned(), spec));
        }
        plain += rest;
        parts.push(Part::Text(plain));
        Ok(Template(parts))
    }

    /// The text with values for all placeholders; `known` are the names that may stand in it, for the message.
    pub(super) fn fill(
        &self,
        value: impl Fn(&str) -> Option<Number>,
        known: &[&str],
    ) -> Result<String, LayersError> {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out += text,
                Part::Field(name, spec) => {
                    let number = value(name).ok_or_else(|| {
                        wrong(
                            &format!("{{{name}}}"),
                            &format!("not measured; there are {}", known.join(", ")),
                        )
                    })?;
                    out += &spec.format(number).ok_or_else(|| {
                        wrong(&format!("{{{name}}}"), "a whole number's format for one that is not whole")
                    })?;
                }
            }
        }
        Ok(out)
    }
}

impl Spec {
    fn parse(text: &str) -> Option<Spec> {
        let chars: Vec<char> = text.chars().collect();
        let is_align = |c: Option<&char>| c.is_some_and(|c| "<>^=".contains(*c));
        let mut spec = Spec { fill: ' ', align: None, sign: '-', width: 0, precision: None, kind: None };
        let mut i = 0;
        if is_align(chars.get(1)) {
            (spec.fill, spec.align, i) = (chars[0], Some(chars[1]), 2);
        } else if is_align(chars.first()) {
            (spec.align, i) = (Some(chars[0]), 1);
        }
        if let Some(sign) = chars.get(i).filter(|c| "+- ".contains(**c)) {
            (spec.sign, i) = (*sign, i + 1);
        }
        if chars.get(i) == Some(&'0') {
            if spec.align.is_none() {
                (spec.fill, spec.align) = ('0', Some('='));
            }
            i += 1;
        }
        let number = |i: &mut usize| {
            let begin = *i;
            while chars.get(*i).is_some_and(char::is_ascii_digit) {
                *i += 1;
            }
            let digits: String = chars[begin..*i].iter().collect();
            if digits.is_empty() { Some(None) } else { digits.parse().ok().filter(|n| *n <= LIMIT).map(Some) }
        };
        spec.width = number(&mut i)?.unwrap_or(0);
        if chars.get(i) == Some(&'.') {
            i += 1;
            spec.precision = Some(number(&mut i)??);
        }
        if let Some(kind) = chars.get(i).filter(|c| "dfFeEgG%".contains(**c)) {
            (spec.kind, i) = (Some(*kind), i + 1);
        }
        (i == chars.len()).then_some(spec)
    }

    fn format(&self, number: Number) -> Option<String> {
        let digits = match (number, self.kind) {
            (Number::Real(_), Some('d')) => return None,
            (Number::Whole(n), None | Some('d')) if self.precision.is_none() => n.to_string(),
            (Number::Whole(_), None | Some('d')) => return None,
            (Number::Whole(n), _) => self.real((n as f64).abs()),
            (Number::Real(x), _) => self.real(x.abs()),
        };
        let negative = matches!(number, Number::Real(x) if x.is_sign_negative() && !x.is_nan());
        let sign = match (negative, self.sign) {
            (true, _) => "-",
            (false, '+') => "+",
            (false, ' ') => " ",
            _ => "",
        };
        let missing = self.width.saturating_sub(sign.len() + digits.chars().count());
        let pad = |n: usize| self.fill.to_string().repeat(n);
        Some(match self.align.unwrap_or('>') {
            '<' => format!("{sign}{digits}{}", pad(missing)),
            '^' => format!("{}{sign}{digits}{}", pad(missing / 2), pad(missing - missing / 2)),
            '=' => format!("{sign}{}{digits}", pad(missing)),
            _ => format!("{}{sign}{digits}", pad(missing)),
        })
    }

    fn real(&self, x: f64) -> String {
        let upper = |text: String, up: bool| if up { text.to_uppercase() } else { text };
        if !x.is_finite() {
            return if x.is_nan() { "nan".to_owned() } else { "inf".to_owned() };
        }
        let precision = self.precision.unwrap_or(6);
        match self.kind {
            Some('f' | 'F') => format!("{x:.precision$}"),
            Some('%') => format!("{:.precision$}%", x * 100.0),
            Some(kind @ ('e' | 'E')) => upper(exponent(&format!("{x:.precision$e}")), kind == 'E'),
            Some(kind @ ('g' | 'G')) => upper(general(x, precision), kind == 'G'),
            _ => self.precision.map_or_else(|| python_float(x), |p| general(x, p)),
        }
    }
}

/// Python writes at least two digits of an exponent, and its sign.
fn exponent(text: &str) -> String {
    match text.split_once('e') {
        Some((digits, e)) => match e.strip_prefix('-') {
            Some(e) => format!("{digits}e-{e:0>2}"),
            None => format!("{digits}e+{e:0>2}"),
        },
        None => text.to_owned(),
    }
}

/// So many significant digits, without zeros at the end.
fn general(x: f64, precision: usize) -> String {
    let precision = precision.max(1);
    let scientific = format!("{x:.*e}", precision - 1);
    let e: i64 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    match usize::try_from(precision as i64 - 1 - e) {
        Ok(decimals) if e >= -4 => trimmed(&format!("{x:.decimals$}")),
        _ => {
            let (digits, e) = scientific.split_once('e').unwrap_or((&scientific, "0"));
            exponent(&format!("{}e{e}", trimmed(digits)))
        }
    }
}

/// A number as Python writes it: with the fewest digits that tell it from others.
pub(super) fn python_float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() { "nan".to_owned() } else { format!("{x}") };
    }
    let scientific = format!("{x:e}");
    let e: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if (-4..16).contains(&e) { format!("{x:?}") } else { exponent(&scientific) }
}

#[cfg(test)]
mod tests {
    use super::{Number, Template, python_float};

    fn filled(template: &str) -> Result<String, String> {
        let value = |name: &str| match name {
            "epoch" => Some(Number::Whole(7)),
            "loss" => Some(Number::Real(0.123_456_789)),
            "big" => Some(Number::Real(-123_456_789.0)),
            "one" => Some(Number::Real(1.0)),
            _ => None,
        };
        let template = Template::parse(template).map_err(|e| e.to_string())?;
        template.fill(value, &["epoch", "loss"]).map_err(|e| e.to_string())
    }

    /// Right-hand sides are what Python 3.11's `str.format` gives.
    #[test]
    fn placeholders_are_filled_as_python_does() {
        for (template, expected) in [
            ("plain", "plain"),
            ("w.{epoch:02d}-{loss:.2f}.h5", "w.07-0.12.h5"),
            ("{{{epoch}}}", "{7}"),
            ("{epoch:>4}|{epoch:<4}|{epoch:^4}|{epoch:+d}|{epoch:x<3d}", "   7|7   | 7  |+7|7xx"),
            ("{epoch:.1f} {loss} {one} {big}", "7.0 0.123456789 1.0 -123456789.0"),
            (
                "{loss:e} {loss:.3E} {loss:.1%} {big:g} {loss:.3}",
                "1.234568e-01 1.235E-01 12.3% -1.23457e+08 0.123",
            ),
            ("{big:015.1f}|{loss:08.4f}|{one:g}", "-000123456789.0|000.1235|1"),
        ] {
            assert_eq!(filled(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn templates_that_make_no_sense_are_refused() {
        for (template, part) in [
            ("{epoch", "a `}` is missing"),
            ("epoch}", "single `}`"),
            ("{}", "not a name"),
            ("{epoch:q}", "not a format"),
            ("{epoch:999999999999d}", "not a format"),
            ("{val_loss}", "not measured; there are epoch, loss"),
            ("{loss:d}", "whole"),
        ] {
            let message = filled(template).unwrap_err();
            assert!(message.contains(part), "{template}: {message}");
        }
    }

    #[test]
    fn numbers_are_spelled_as_python_spells_them() {
        for (x, text) in [
            (0.1, "0.1"),
            (1e-5, "1e-05"),
            (1e16, "1e+16"),
            (123_456.0, "123456.0"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
            (0.693_147_182_464_599_6, "0.6931471824645996"),
        ] {
            assert_eq!(python_float(x), text);
        }
    }
}
