/// Whether `name` matches a shell pattern, as Python's `fnmatch.fnmatchcase` has it: the whole name, `*` across `/`,
/// `?`, `[seq]`, `[!seq]`.
pub(crate) fn fnmatch(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Where to go on after the last star: one more character of the name belongs to it.
    let (mut p, mut n, mut retry) = (0, 0, None);
    loop {
        let step = match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, n));
                p += 1;
                continue;
            }
            None if n == name.len() => return true,
            Some(c) if n < name.len() => one(&pattern[p..], *c, name[n]),
            _ => None,
        };
        match (step, retry) {
            (Some(len), _) => {
                p += len;
                n += 1;
            }
            (None, Some((after_star, from))) if from < name.len() => {
                retry = Some((after_star, from + 1));
                (p, n) = (after_star, from + 1);
            }
            _ => return false,
        }
    }
}

/// Length of the pattern's first item if it matches `c`.
fn one(pattern: &[char], first: char, c: char) -> Option<usize> {
    match first {
        '?' => Some(1),
        '[' => {
            let negated = pattern.get(1) == Some(&'!');
            let start = if negated { 2 } else { 1 };
            // A bracket right after the opening is a member of the set.
            let close = pattern.iter().skip(start + 1).position(|x| *x == ']').map(|i| i + start + 1);
            let Some(close) = close else { return (c == '[').then_some(1) };
            let set = &pattern[start..close];
            let mut found = false;
            let mut i = 0;
            while i < set.len() {
                if i + 2 < set.len() && set[i + 1] == '-' {
                    found |= (set[i]..=set[i + 2]).contains(&c);
                    i += 3;
                } else {
                    found |= set[i] == c;
                    i += 1;
                }
            }
            (found != negated).then_some(close + 1)
        }
        _ => (first == c).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::fnmatch;

    #[test]
    fn patterns_match_as_in_python() {
        // Expected values from Python's fnmatch.fnmatchcase.
        for (pattern, name, expected) in [
            ("*", "", true),
            ("conv/*", "conv/a/kernel", true),
            ("conv/*", "xconv/a", false),
            ("*kernel", "a/kernel/kernel", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[!a-c]x", "dx", true),
            ("[]]x", "]x", true),
            ("[x", "[x", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxa", false),
            ("A", "a", false),
        ] {
            assert_eq!(fnmatch(pattern, name), expected, "{pattern} {name}");
        }
    }
}
