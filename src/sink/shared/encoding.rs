//! How a value is written into a name, of which the target takes some characters alone. Different values are written
//! differently. Knows no event, and of each kind of target only its characters.

use super::template::NONE;
use ring::digest;

/// How many digits of the hash a name ends with that was cut.
const HASH_DIGITS: usize = 16;

/// How bytes are written that the target does not take.
#[derive(Clone, Copy, Debug)]
pub(in crate::sink) struct Encoding {
    keeps: fn(u8) -> bool,
    /// Stands before the two digits of a byte. A place in a value that could be taken for it is written so, too.
    escape: &'static str,
    /// How long each part of a name may be, in bytes, and what separates parts.
    longest: usize,
    separator: Option<char>,
}

impl Encoding {
    /// As it is: for a target that takes everything, where an event that lacks the field may meet one whose value is
    /// the word for that.
    pub(in crate::sink) const PLAIN: Self = Self {
        keeps: |_| true,
        escape: "",
        longest: usize::MAX,
        separator: None,
    };

    /// Percent-encoded but for letters, digits, `-` and `_`: a token of a NATS subject, a part of a Redis key.
    pub(in crate::sink) const TOKEN: Self = Self {
        keeps: |byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte),
        escape: "%",
        longest: usize::MAX,
        separator: None,
    };

    /// A segment of a URL's path: what RFC 3986 calls unreserved.
    pub(in crate::sink) const SEGMENT: Self = Self {
        keeps: |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte),
        ..Self::TOKEN
    };

    /// A Kafka topic: [letters, digits, `.`, `_` and `-`, up to 249 of
    /// them](https://github.com/apache/kafka/blob/trunk/clients/src/main/java/org/apache/kafka/common/internals/Topic.java).
    pub(in crate::sink) const TOPIC: Self = Self {
        keeps: |byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte),
        escape: "-x",
        longest: 249,
        separator: None,
    };

    /// A PostgreSQL identifier in quotes, of at most `longest` bytes, in a name with a schema.
    pub(in crate::sink) const fn identifier(longest: usize) -> Self {
        Self {
            keeps: |byte| byte.is_ascii_alphanumeric() || byte == b'_',
            escape: "_x",
            longest,
            separator: Some('.'),
        }
    }

    /// Adds a value, which is not empty, to a name.
    pub(super) fn write(self, value: &str, name: &mut String) {
        if self.escape.is_empty() {
            name.push_str(value);
            return;
        }
        let bytes = value.as_bytes();
        // The word for a field that is missing, and names of dots, of which some targets have their own idea.
        let is_special = value == NONE || bytes.iter().all(|byte| *byte == b'.');
        for (index, byte) in bytes.iter().enumerate() {
            let rest = bytes.get(index..).unwrap_or_default();
            if (self.keeps)(*byte) && !(is_special && index == 0) && !self.looks_escaped(rest) {
                name.push(char::from(*byte));
            } else {
                name.push_str(&format!("{}{byte:02X}", self.escape));
            }
        }
    }

    /// Whether what begins here could be taken for a byte that is written so, or for the end of a name that was cut,
    /// also together with what follows in the template.
    fn looks_escaped(self, rest: &[u8]) -> bool {
        let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
        let &[first, second] = self.escape.as_bytes() else {
            return false;
        };
        match rest {
            [start, ..] if *start != first => false,
            [_] => true,
            [_, next, ..] if *next != second => false,
            [_, _] | [_, _, MARK_OF_CUT | MARK_OF_SINK, ..] => true,
            [_, _, digit] => is_digit(digit),
            [_, _, high, low, ..] => is_digit(high) && is_digit(low),
            [] => false,
        }
    }

    /// Returns the name, each part of which is cut if it is too long; it ends with digits of its hash then.
    pub(super) fn fitting(self, name: String) -> String {
        let Some(separator) = self.separator else {
            return self.cut(name);
        };
        if name.len() <= self.longest {
            return name;
        }
        let parts = name.split(separator);
        let parts: Vec<String> = parts.map(|part| self.cut(part.to_owned())).collect();
        parts.join(&separator.to_string())
    }

    fn cut(self, name: String) -> String {
        if name.len() <= self.longest {
            return name;
        }
        let hash = digest::digest(&digest::SHA256, name.as_bytes());
        let mut digits: String = hash
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        digits.truncate(HASH_DIGITS);
        let end = format!("{}{}{digits}", self.escape, char::from(MARK_OF_CUT));
        let mut room = self.longest.saturating_sub(end.len());
        while !name.is_char_boundary(room) {
            room -= 1;
        }
        format!("{}{end}", name.get(..room).unwrap_or_default())
    }
}

/// What follows the escape in a name that was cut: no digit.
const MARK_OF_CUT: u8 = b'z';
/// What follows the escape in names that a sink makes beside those of its targets.
pub(in crate::sink) const MARK_OF_SINK: u8 = b'i';

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Encoding; 4] = [
        Encoding::TOKEN,
        Encoding::SEGMENT,
        Encoding::TOPIC,
        Encoding::identifier(48),
    ];

    fn written(encoding: Encoding, value: &str) -> String {
        let mut name = String::new();
        encoding.write(value, &mut name);
        encoding.fitting(name)
    }

    #[test]
    fn what_the_target_takes_stays_as_it_is() {
        for (encoding, value, wanted) in [
            (Encoding::TOKEN, "order_1-A", "order_1-A"),
            (Encoding::TOKEN, "data.processed", "data%2Eprocessed"),
            (Encoding::TOKEN, "a b*>%", "a%20b%2A%3E%25"),
            (
                Encoding::SEGMENT,
                "data.processed/ö",
                "data.processed%2F%C3%B6",
            ),
            (Encoding::TOPIC, "data.processed", "data.processed"),
            (Encoding::TOPIC, "a/b:c", "a-x2Fb-x3Ac"),
            (Encoding::TOPIC, "a-xy", "a-xy"),
            (Encoding::TOPIC, "a-x2F", "a-x2Dx2F"),
            (Encoding::TOPIC, "..", "-x2E."),
            (Encoding::identifier(48), "OrderWorkflow", "OrderWorkflow"),
            (Encoding::identifier(48), "order_xml", "order_xml"),
            (
                Encoding::identifier(48),
                "data.processed",
                "data_x2Eprocessed",
            ),
            (Encoding::identifier(48), "a_", "a_x5F"),
            (Encoding::TOKEN, "none", "%6Eone"),
        ] {
            assert_eq!(written(encoding, value), wanted);
        }
    }

    #[test]
    fn long_names_are_cut_and_stay_different() {
        for (encoding, longest) in [(Encoding::TOPIC, 249), (Encoding::identifier(48), 48)] {
            let long = "a".repeat(longest + 1);
            let names = [&long, &format!("{long}b"), &long[1..]].map(|it| written(encoding, it));
            assert_eq!(names[2], long[1..]);
            assert_ne!(names[0], names[1]);
            assert!(names.iter().all(|name| name.len() == longest), "{names:?}");
        }
        let name = encoded_with_schema(&"a".repeat(60));
        assert!(name.starts_with("audit.aaa"), "{name}");
        assert_eq!(name.len(), "audit.".len() + 48);
    }

    fn encoded_with_schema(value: &str) -> String {
        Encoding::identifier(48).fitting(format!("audit.{value}"))
    }

    /// The value that was written into a name.
    fn read(encoding: Encoding, name: &str) -> Vec<u8> {
        let mut value = Vec::new();
        let mut rest = name.as_bytes();
        while let [first, after @ ..] = rest {
            let digits = rest
                .strip_prefix(encoding.escape.as_bytes())
                .and_then(|after| after.split_at_checked(2));
            let byte = digits.and_then(|(digits, after)| {
                let digits = std::str::from_utf8(digits).ok()?;
                let is_ours = !digits.contains(|digit: char| digit.is_ascii_lowercase());
                let byte = u8::from_str_radix(digits, 16).ok().filter(|_| is_ours)?;
                Some((byte, after))
            });
            let (byte, after) = byte.unwrap_or((*first, after));
            value.push(byte);
            rest = after;
        }
        value
    }

    /// Values that look like what others become.
    fn tricky() -> impl Strategy<Value = String> {
        const PIECES: [&str; 17] = [
            "-", "_", "x", "-x", "_x", "2F", "5F", "A", "2", "z", "i", ".", "/", "%", "%2E", "ö",
            NONE,
        ];
        let of_pieces = prop::collection::vec(prop::sample::select(&PIECES[..]), 1..6);
        prop_oneof![
            4 => of_pieces.prop_map(|pieces| pieces.concat()),
            1 => "\\PC{1,60}",
            1 => "[a/]{40,70}",
        ]
    }

    proptest! {
        #[test]
        fn different_values_have_different_names(a in tricky(), b in tricky()) {
            for encoding in ALL {
                let (one, other) = (written(encoding, &a), written(encoding, &b));
                prop_assert_eq!(a == b, one == other, "{} {} {:?}", one, other, encoding);
                for name in [one, other] {
                    prop_assert!(name != NONE && name.len() <= encoding.longest);
                    let takes = |byte| (encoding.keeps)(byte) || byte == b'%';
                    prop_assert!(name.bytes().all(takes), "{}", name);
                }
            }
        }

        /// What can be read back is written differently for each value, whatever follows it.
        #[test]
        fn a_value_can_be_read_back_before_any_text(
            value in tricky(),
            text in "[-_xzi0-9A-F]{0,4}",
        ) {
            for encoding in ALL {
                let mut name = String::new();
                encoding.write(&value, &mut name);
                prop_assert_eq!(read(encoding, &name), value.as_bytes());
                let before = read(encoding, &format!("{name}{text}"));
                prop_assert!(before.starts_with(value.as_bytes()), "{}{}", name, text);
            }
        }
    }
}
