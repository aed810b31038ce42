// SPDX-License-Identifier: Apache-2.0
//! The regular expressions with which phosphor-pid-control finds its sensors (contract 4.1).
//!
//! Owns: the part of the ECMAScript grammar that a sensor's name can need: characters, `.`, `[...]`, `\d` and its like, groups,
//! `|`, `^`, `$`, and how often. Whatever else is written is no pattern here. Must never: take long: it carries sets of places
//! along and never tries again, and what could take more than some thousand steps is refused.

/// Longer ones are no sensor's name.
const LONGEST: usize = 256;
/// Groups within groups.
const DEEPEST: usize = 8;
/// What `{n}` may say.
const MOST: u32 = 64;
/// What `*` counts for in [`work`]: it finds no new place more often than there are places.
const ROUNDS: u32 = 128;
/// The most steps through a text that one pattern may take.
const MOST_WORK: u32 = 20_000;

/// Places in a text, as bits: 0 is before its first character.
type Places = u128;

/// A text may be this long, in bytes: its places are bits.
pub const LONGEST_TEXT: usize = 127;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Atom {
    Byte(u8),
    /// One of these ranges, or none of them.
    Class {
        negated: bool,
        ranges: Vec<(u8, u8)>,
    },
    Start,
    End,
    Group(Alternatives),
}

/// An atom, and how often it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    atom: Atom,
    least: u32,
    most: Option<u32>,
}

type Alternatives = Vec<Vec<Piece>>;

/// A regular expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Alternatives);

impl Pattern {
    /// What this text means; `None` if it is not understood, or too long.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST || !text.is_ascii() {
            return None;
        }
        let mut reader = Reader { rest: text.as_bytes() };
        let alternatives = reader.alternatives(0)?;
        (reader.rest.is_empty() && work(&alternatives) <= MOST_WORK).then_some(Self(alternatives))
    }

    /// It fits somewhere in this text. A text that is longer than [`LONGEST_TEXT`] fits nothing.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        let text = text.as_bytes();
        if text.len() > LONGEST_TEXT {
            return false;
        }
        let anywhere = Places::MAX >> (LONGEST_TEXT - text.len());
        after(&self.0, text, anywhere) != 0
    }
}

/// How many steps through a text this takes at most.
fn work(alternatives: &Alternatives) -> u32 {
    let of_piece = |piece: &Piece| {
        let once = match &piece.atom {
            Atom::Byte(_) | Atom::Class { .. } | Atom::Start | Atom::End => 1,
            Atom::Group(alternatives) => work(alternatives),
        };
        once.saturating_mul(piece.most.unwrap_or(ROUNDS).max(1))
    };
    alternatives.iter().flatten().map(of_piece).fold(0, u32::saturating_add)
}

/// Where one can be behind this, coming from any of `places`.
fn after(alternatives: &Alternatives, text: &[u8], places: Places) -> Places {
    alternatives
        .iter()
        .map(|pieces| pieces.iter().fold(places, |at, piece| piece.after(text, at)))
        .fold(0, |all, at| all | at)
}

impl Piece {
    fn after(&self, text: &[u8], mut places: Places) -> Places {
        for _ in 0..self.least {
            places = self.atom.after(text, places);
        }
        // Each round finds a new place, or it is the last: there are no more rounds than places.
        let (mut all, mut round) = (places, self.least);
        while self.most.is_none_or(|most| round < most) && places != 0 {
            places = self.atom.after(text, places) & !all;
            all |= places;
            round += 1;
        }
        all
    }
}

impl Atom {
    fn after(&self, text: &[u8], places: Places) -> Places {
        match self {
            Self::Byte(byte) => step(text, places, |there| there == *byte),
            Self::Class { negated, ranges } => step(text, places, |there| {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&there)) != *negated
            }),
            Self::Start => places & 1,
            Self::End => places & (1 << text.len()),
            Self::Group(alternatives) => after(alternatives, text, places),
        }
    }
}

/// One character on, where it is one of these.
fn step(text: &[u8], places: Places, is: impl Fn(u8) -> bool) -> Places {
    let fits = text.iter().enumerate().filter(|(_, there)| is(**there)).fold(0, |all, (at, _)| all | 1 << at);
    (places & fits) << 1
}

/// What of a pattern has not been read yet.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Takes this if it comes next.
    fn takes(&mut self, byte: u8) -> bool {
        let is = self.rest.first() == Some(&byte);
        if is {
            self.next();
        }
        is
    }

    /// Until the end, or the end of this group.
    fn alternatives(&mut self, depth: usize) -> Option<Alternatives> {
        if depth > DEEPEST {
            return None;
        }
        let mut alternatives = vec![Vec::new()];
        while let Some(next) = self.rest.first() {
            match next {
                b')' => break,
                b'|' => {
                    self.next();
                    alternatives.push(Vec::new());
                }
                _ => {
                    let piece = self.piece(depth)?;
                    alternatives.last_mut()?.push(piece);
                }
            }
        }
        Some(alternatives)
    }

    fn piece(&mut self, depth: usize) -> Option<Piece> {
        let atom = self.atom(depth)?;
        let (least, most) = self.how_often()?;
        let place = matches!(atom, Atom::Start | Atom::End);
        if place && (least, most) != (1, Some(1)) {
            return None;
        }
        // `a+?`: as few as do; where it only counts whether it fits, that is the same.
        if (least, most) != (1, Some(1)) {
            self.takes(b'?');
        }
        Some(Piece { atom, least, most })
    }

    fn how_often(&mut self) -> Option<(u32, Option<u32>)> {
        if self.takes(b'*') {
            return Some((0, None));
        }
        if self.takes(b'+') {
            return Some((1, None));
        }
        if self.takes(b'?') {
            return Some((0, Some(1)));
        }
        if !self.takes(b'{') {
            return Some((1, Some(1)));
        }
        let least = self.number()?;
        let most = if self.takes(b',') {
            if self.rest.first() == Some(&b'}') { None } else { Some(self.number()?) }
        } else {
            Some(least)
        };
        (self.takes(b'}') && most.is_none_or(|most| least <= most)).then_some((least, most))
    }

    fn number(&mut self) -> Option<u32> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at_checked(digits)?;
        self.rest = rest;
        str::from_utf8(number).ok()?.parse().ok().filter(|number| *number <= MOST)
    }

    fn atom(&mut self, depth: usize) -> Option<Atom> {
        Some(match self.next()? {
            b'.' => Atom::Class { negated: true, ranges: vec![(b'\n', b'\n'), (b'\r', b'\r')] },
            b'^' => Atom::Start,
            b'$' => Atom::End,
            b'[' => self.class()?,
            b'\\' => match self.next()? {
                byte if byte.is_ascii_alphanumeric() => {
                    let (negated, ranges) = named(byte)?;
                    Atom::Class { negated, ranges }
                }
                byte => Atom::Byte(byte),
            },
            b'(' => {
                if self.takes(b'?') && !self.takes(b':') {
                    return None;
                }
                let group = self.alternatives(depth + 1)?;
                if !self.takes(b')') {
                    return None;
                }
                Atom::Group(group)
            }
            b'*' | b'+' | b'?' | b'{' | b'}' | b']' | b')' => return None,
            byte => Atom::Byte(byte),
        })
    }

    /// Behind `[`.
    fn class(&mut self) -> Option<Atom> {
        let negated = self.takes(b'^');
        let mut ranges = Vec::new();
        loop {
            let first = match self.next()? {
                b']' => break,
                b'[' => return None,
                b'\\' => match self.next()? {
                    byte if byte.is_ascii_alphanumeric() => {
                        let (false, named) = named(byte)? else { return None };
                        ranges.extend(named);
                        continue;
                    }
                    byte => byte,
                },
                byte => byte,
            };
            let last = match self.rest {
                [b'-', b']', ..] => first,
                [b'-', last, ..] if !matches!(last, b'\\' | b'[') => {
                    let last = *last;
                    self.rest = self.rest.get(2..)?;
                    last
                }
                _ => first,
            };
            if last < first {
                return None;
            }
            ranges.push((first, last));
        }
        (!ranges.is_empty()).then_some(Atom::Class { negated, ranges })
    }
}

/// `\d` and its like.
fn named(letter: u8) -> Option<(bool, Vec<(u8, u8)>)> {
    let ranges = match letter.to_ascii_lowercase() {
        b'd' => vec![(b'0', b'9')],
        b'w' => vec![(b'0', b'9'), (b'A', b'Z'), (b'a', b'z'), (b'_', b'_')],
        b's' => vec![(b'\t', b'\r'), (b' ', b' ')],
        _ => return None,
    };
    Some((letter.is_ascii_uppercase(), ranges))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATH: &str = "/xyz/openbmc_project/sensors/temperature/DIMM_TEMP_A1";

    fn finds(pattern: &str, text: &str) -> bool {
        Pattern::parse(pattern).expect(pattern).is_in(text)
    }

    #[test]
    fn a_sensor_is_found_as_fan_control_finds_it() {
        for found in [
            "/DIMM_TEMP_A1$",
            "/DIMM_TEMP_..$",
            "/DIMM_TEMP_[A-D][0-9]+$",
            "/DIMM.*$",
            "/.*$",
            "/(CPU|DIMM)_TEMP_A1$",
            "/CPU|DIMM_TEMP_A1$",
            "/temperature/DIMM_TEMP_A1$",
            r"/DIMM_TEMP_\w{2}$",
        ] {
            assert!(finds(found, PATH), "{found}");
        }
        for not in [
            "/DIMM_TEMP_A$",
            "/TEMP_A1$",
            "/DIMM_TEMP_A1_$",
            "/dimm_temp_a1$",
            "/DIMM_TEMP_[B-D]1$",
            "/CPU|DIMM$",
        ] {
            assert!(!finds(not, PATH), "{not}");
        }
    }

    #[test]
    fn what_is_not_understood_is_no_pattern() {
        for wrong in [
            "(",
            ")",
            "a)",
            "[",
            "[]",
            "[b-a]",
            "*",
            "a**",
            "a{2",
            "a{3,2}",
            "a{99}",
            "(?=a)",
            r"\1",
            r"\b",
            "[[:digit:]]",
            "\\",
            "é",
        ] {
            assert_eq!(Pattern::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Pattern::parse(&"a".repeat(LONGEST + 1)), None);
        assert_eq!(Pattern::parse(&"(".repeat(100)), None);
    }

    #[test]
    fn a_text_may_be_as_long_as_said() {
        assert!(finds("a$", &"a".repeat(LONGEST_TEXT)));
        assert!(!finds("a$", &"a".repeat(LONGEST_TEXT + 1)));
        assert!(finds("^$", ""));
    }

    /// Some would keep a matcher that tries again busy for longer than the universe is old.
    #[test]
    fn what_takes_long_is_refused() {
        let text = "a".repeat(LONGEST_TEXT);
        assert!(!finds("(a*)*b$", &text));
        assert!(!finds("(a|a)*(a?){64}(a?){64}b$", &text));
        for long in ["((a*)*)*b$", "(((a?){64}){64}){64}b$"] {
            assert_eq!(Pattern::parse(long), None, "{long}");
        }
    }

    proptest! {
        /// Another implementation says the same of everything that both understand.
        #[test]
        fn as_another_implementation(pattern in r"[/^]?([ab.|]|a\*|b\+|\(a\|b\)|\[ab\]|\[\^a\]|\(ab\)\?|a\{1,2\}|\\w|\\D|\.\*){0,6}\$?", text in "[/ab1]{0,8}") {
            let ours = Pattern::parse(&pattern);
            let theirs = regex_lite::Regex::new(&pattern);
            if let (Some(ours), Ok(theirs)) = (ours, theirs) {
                prop_assert_eq!(ours.is_in(&text), theirs.is_match(&text), "{} in {}", pattern, text);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(pattern in ".{0,40}", text in ".{0,200}") {
            if let Some(pattern) = Pattern::parse(&pattern) {
                prop_assert!(!pattern.is_in(&text) || text.len() <= LONGEST_TEXT);
            }
        }
    }
}
