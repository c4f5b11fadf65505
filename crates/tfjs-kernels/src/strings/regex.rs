//! RE2 expressions on the `regex` crate: `StaticRegexReplace`, `RegexReplace`, `RegexFullMatch`.
use regex::bytes::{Captures, Regex};

use crate::{KernelError, Result, Tensor, TfString};

/// A compiled RE2 expression.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    /// The same, anchored at both ends.
    full: Regex,
}

impl Pattern {
    /// Compiles an expression in RE2's syntax.
    ///
    /// # Errors
    /// [`KernelError::Argument`] when it is not UTF-8 or not an expression.
    pub fn new(pattern: &[u8]) -> Result<Pattern> {
        let wrong = |why: String| KernelError::Argument {
            what: "the pattern",
            got: format!("{:?} ({why})", String::from_utf8_lossy(pattern)),
            expected: "a regular expression in RE2 syntax",
        };
        let text = std::str::from_utf8(pattern).map_err(|e| wrong(e.to_string()))?;
        let text = translate(text).map_err(|why| wrong(why.into()))?;
        let regex = Regex::new(&text).map_err(|e| wrong(e.to_string()))?;
        let full = Regex::new(&format!(r"\A(?:{text})\z")).map_err(|e| wrong(e.to_string()))?;
        Ok(Pattern { regex, full })
    }

    /// Replaces the first match in every string, or all of them.
    ///
    /// # Errors
    /// [`KernelError`] when the input is not strings.
    pub fn replace(&self, input: Tensor, rewrite: &Rewrite, global: bool) -> Result<Tensor> {
        // RE2 refuses a rewrite that names a group which the expression lacks, and leaves the text as it is.
        if rewrite.groups >= self.regex.captures_len() {
            input.typed::<TfString>("input")?;
            return Ok(input);
        }
        super::map(input, |s| {
            let mut out = Vec::with_capacity(s.len());
            let mut rest = 0;
            for captures in self.regex.captures_iter(s).filter(|c| !splits_character(s, c)) {
                let whole = captures.get_match();
                out.extend_from_slice(&s[rest..whole.start()]);
                rewrite.append(&captures, &mut out);
                rest = whole.end();
                if !global {
                    break;
                }
            }
            out.extend_from_slice(&s[rest..]);
            Ok(TfString::from(out))
        })
    }

    /// Whether every string as a whole matches.
    ///
    /// # Errors
    /// [`KernelError`] when the input is not strings.
    pub fn full_match(&self, input: &Tensor) -> Result<Tensor> {
        let t = input.typed::<TfString>("input")?;
        Tensor::new(t.shape(), t.data().iter().map(|s| self.full.is_match(s)).collect::<Vec<bool>>())
    }
}

/// What replaces a match: literal bytes and groups (`\0` to `\9`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    parts: Vec<Part>,
    /// Highest group named.
    groups: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(u8),
    Group(usize),
}

impl Rewrite {
    /// Parses a rewrite string. As in RE2 it ends at a backslash that comes before neither a digit nor another
    /// backslash.
    pub fn new(rewrite: &[u8]) -> Rewrite {
        let mut out = Rewrite::default();
        let mut open = true;
        let mut bytes = rewrite.iter();
        while let Some(&b) = bytes.next() {
            let part = match b {
                b'\\' => match bytes.next() {
                    Some(d @ b'0'..=b'9') => {
                        let group = usize::from(d - b'0');
                        // Counts even where nothing is written any more.
                        out.groups = out.groups.max(group);
                        Part::Group(group)
                    }
                    Some(b'\\') => Part::Literal(b'\\'),
                    _ => {
                        open = false;
                        continue;
                    }
                },
                b => Part::Literal(b),
            };
            if open {
                out.parts.push(part);
            }
        }
        out
    }
}

/// Whether nothing is matched within a character; RE2 steps over whole ones.
fn splits_character(text: &[u8], captures: &Captures<'_>) -> bool {
    let found = captures.get_match();
    let continues = |b: &u8| (0x80..0xc0).contains(b);
    if !found.is_empty() || !text.get(found.start()).is_some_and(continues) {
        return false;
    }
    let first = text[..found.start()].iter().rposition(|b| !continues(b)).unwrap_or(0);
    text[first..]
        .utf8_chunks()
        .next()
        .is_some_and(|c| c.valid().chars().next().is_some_and(|c| first + c.len_utf8() > found.start()))
}

impl Rewrite {
    fn append(&self, captures: &Captures<'_>, out: &mut Vec<u8>) {
        for part in &self.parts {
            match *part {
                Part::Literal(b) => out.push(b),
                Part::Group(g) => {
                    out.extend_from_slice(captures.get(g).map_or(&[][..], |m| m.as_bytes()));
                }
            }
        }
    }
}

/// RE2's Perl classes are ASCII; the `regex` crate's are Unicode. Inside and outside of brackets:
const CLASSES: &[(char, &str, &str)] = &[
    ('d', "[0-9]", "0-9"),
    ('D', "[^0-9]", "[^0-9]"),
    ('s', r"[\t\n\x0C\r ]", r"\t\n\x0C\r "),
    ('S', r"[^\t\n\x0C\r ]", r"[^\t\n\x0C\r ]"),
    ('w', "[0-9A-Za-z_]", "0-9A-Za-z_"),
    ('W', "[^0-9A-Za-z_]", "[^0-9A-Za-z_]"),
];

/// Rewrites what the two syntaxes understand differently.
fn translate(pattern: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    // A `]` right after the opening bracket is a literal.
    let mut class_start = false;
    while let Some(c) = chars.next() {
        let first = std::mem::take(&mut class_start);
        match c {
            '\\' => match chars.next().ok_or("trailing \\")? {
                'Q' => {
                    while let Some(c) = chars.next() {
                        if c == '\\' && chars.peek() == Some(&'E') {
                            chars.next();
                            break;
                        }
                        out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
                    }
                }
                'C' if !in_class => out.push_str("(?s-u:.)"),
                'b' if !in_class => out.push_str(r"(?-u:\b)"),
                'B' if !in_class => out.push_str(r"(?-u:\B)"),
                e if CLASSES.iter().any(|c| c.0 == e) => {
                    let class = CLASSES.iter().find(|c| c.0 == e);
                    out.push_str(class.map_or("", |c| if in_class { c.2 } else { c.1 }));
                }
                e @ '0'..='7' => {
                    // Octal: up to two more digits. A single digit other than 0 would be a backreference.
                    if e != '0' && !chars.peek().is_some_and(|c| c.is_digit(8)) {
                        return Err("invalid escape sequence");
                    }
                    let mut value = e.to_digit(8).unwrap_or(0);
                    for _ in 0..2 {
                        let Some(d) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                        value = value * 8 + d;
                        chars.next();
                    }
                    out.push_str(&format!("\\x{{{value:x}}}"));
                }
                e if e.is_ascii_punctuation() => out.push_str(&format!("\\x{{{:x}}}", e as u32)),
                e @ ('<' | '>' | 'h' | 'H' | 'R' | 'u' | 'U' | 'Z') => {
                    let _ = e;
                    return Err("invalid escape sequence");
                }
                e => out.extend(['\\', e]),
            },
            '[' if !in_class => {
                in_class = true;
                class_start = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
            }
            '[' if chars.peek() == Some(&':') => {
                // A POSIX class such as [:alpha:] stays; both syntaxes mean ASCII.
                out.push('[');
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            '[' => out.push_str(r"\["),
            ']' if in_class && first => out.push_str(r"\]"),
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '&' | '~' if in_class => out.extend(['\\', c]),
            '-' if in_class && chars.peek() == Some(&'-') => out.push_str(r"\-"),
            c => out.push(c),
        }
    }
    if in_class { Err("missing ]") } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::{Pattern, Rewrite};
    use crate::{Tensor, TfString};

    fn replace(pattern: &str, rewrite: &str, text: &str, global: bool) -> String {
        let input = Tensor::vector(vec![TfString::from(text)]);
        let out = Pattern::new(pattern.as_bytes())
            .and_then(|p| p.replace(input, &Rewrite::new(rewrite.as_bytes()), global))
            .unwrap();
        String::from_utf8(out.data::<TfString>().unwrap()[0].to_vec()).unwrap()
    }

    // Values from TensorFlow 2.19: pattern, rewrite, text, result for all matches, result for the first.
    #[test]
    fn expressions_mean_what_they_mean_in_re2() {
        for (pattern, rewrite, text, all, first) in [
            ("a*", "-", "baac", "-b-c-", "-baac"),
            (r"(\w+) (\w+)", r"\2 \1", "hello wörld ok", "w helloöok rld", "w helloörld ok"),
            (r"[\d\s]+", "_", "a1 2\u{b}3", "a_\u{b}_", "a_\u{b}3"),
            ("[[a]", "!", "x[a]", "x!!]", "x!a]"),
            (r"\bfoo\b", "#", "föfoo foo", "fö# #", "fö# foo"),
            ("x", r"\1", "axb", "axb", "axb"),
            ("x", r"q\zq", "axb", "aqb", "aqb"),
            ("[&&a]", "!", "a&b", "!!b", "!&b"),
            (r"\Qa.b\E+", "!", "a.bbb axb", "! axb", "! axb"),
            ("[^-a]", "!", "-ab", "-a!", "-a!"),
            (r"\pL", "L", "é1", "L1", "L1"),
            (r"\x{e9}|\141", "!", "éa", "!!", "!a"),
            ("[]a]", "!", "]a", "!!", "!a"),
            (r"\_\-\/", "!", "_-/", "!", "!"),
            ("a{2,}?", "!", "aaaa", "!!", "!aa"),
            ("$", "!", "ab\n", "ab\n!", "ab\n!"),
            ("[[:word:]]", "!", "aé", "!é", "!é"),
            (r"\D", "x", "1é2", "1x2", "1x2"),
        ] {
            assert_eq!(replace(pattern, rewrite, text, true), all, "{pattern}");
            assert_eq!(replace(pattern, rewrite, text, false), first, "{pattern}");
        }
    }

    #[test]
    fn malformed_expressions_are_errors() {
        for pattern in ["(", "[a", r"a\", r"(a)\1", "a{9999999}", r"\<a"] {
            assert!(Pattern::new(pattern.as_bytes()).is_err() == (pattern != r"\<a"), "{pattern}");
        }
        assert!(Pattern::new(&[0xff]).is_err());
    }
}
