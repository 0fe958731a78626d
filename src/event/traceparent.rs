//! The syntax of the W3C trace context header `traceparent`. Does not know where the header comes from.

/// What it takes, for errors.
pub(super) const ALLOWED: &str = "a W3C traceparent such as \
     `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`";

/// The length of version 00, and of what every later version begins with.
const LENGTH: usize = 55;
/// The longest that a later version may be.
const MAX_LENGTH: usize = 512;

/// Whether a text is a `traceparent` (<https://www.w3.org/TR/trace-context/#traceparent-header>):
/// version, trace id, parent id and flags in lower-case hexadecimal digits, neither id all zeros. Of a
/// later version than 00, which may have more behind a further dash, only the known part is looked at.
pub(crate) fn is_traceparent(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(known), Some(rest)) = (bytes.get(..LENGTH), bytes.get(LENGTH..)) else {
        return false;
    };
    let mut fields = known.split(|byte| *byte == b'-');
    let mut field = |length: usize| {
        let hexadecimal = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        fields
            .next()
            .filter(|field| field.len() == length && field.iter().all(hexadecimal))
    };
    let (Some(version), Some(trace_id), Some(parent_id), Some(_flags)) =
        (field(2), field(32), field(16), field(2))
    else {
        return false;
    };
    let is_zero = |id: &[u8]| id.iter().all(|digit| *digit == b'0');
    let rest_fits = match version {
        b"ff" => false,
        b"00" => rest.is_empty(),
        _ => {
            bytes.len() <= MAX_LENGTH
                && rest.first().is_none_or(|first| *first == b'-')
                && rest.iter().all(u8::is_ascii_graphic)
        }
    };
    rest_fits && !is_zero(trace_id) && !is_zero(parent_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_the_recommendation_shows_is_taken() {
        for text in [
            VALID,
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings",
        ] {
            assert!(is_traceparent(text), "{text}");
        }
    }

    #[test]
    fn what_it_forbids_is_not() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-a\nb",
            "0-0af7651916cd43dd8448eb211c80319c0-b7ad6b7169203331-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333é-01",
        ] {
            assert!(!is_traceparent(text), "{text}");
        }
        assert!(!is_traceparent(&format!(
            "cc{}-{}",
            &VALID[2..],
            "x".repeat(1_000)
        )));
    }

    proptest! {
        #[test]
        fn any_ids_are_taken(
            trace_id in "[0-9a-f]{31}[1-9a-f]", parent_id in "[1-9a-f][0-9a-f]{15}", flags in "[0-9a-f]{2}",
        ) {
            let text = format!("00-{}-{}-{}", trace_id, parent_id, flags);
            prop_assert!(is_traceparent(&text));
        }

        #[test]
        fn one_character_less_or_more_is_not_one(at in 0..VALID.len(), more in any::<char>()) {
            let mut shorter = VALID.to_owned();
            shorter.remove(at);
            prop_assert!(!is_traceparent(&shorter));
            let mut longer = VALID.to_owned();
            longer.insert(at, more);
            prop_assert!(!is_traceparent(&longer));
        }
    }

    /// The rule once more, digit by digit.
    fn is_one(text: &str) -> bool {
        let characters: Vec<char> = text.chars().collect();
        let hexadecimal = |from: usize, to: usize| {
            characters.get(from..to).is_some_and(|digits| {
                digits
                    .iter()
                    .all(|digit| digit.is_ascii_digit() || ('a'..='f').contains(digit))
            })
        };
        let dashes = [2, 35, 52]
            .into_iter()
            .all(|at| characters.get(at) == Some(&'-'));
        let zero = |from: usize, to: usize| characters[from..to].iter().all(|digit| *digit == '0');
        let fits = dashes
            && hexadecimal(0, 2)
            && hexadecimal(3, 35)
            && hexadecimal(36, 52)
            && hexadecimal(53, 55);
        fits && !zero(3, 35)
            && !zero(36, 52)
            && !text.starts_with("ff")
            && match characters.get(55) {
                None => true,
                Some(next) => {
                    *next == '-'
                        && !text.starts_with("00")
                        && text.len() <= MAX_LENGTH
                        && text
                            .chars()
                            .all(|character| ('!'..='~').contains(&character))
                }
            }
    }

    #[test]
    fn fuzz_traceparent() {
        let seeds = [
            VALID.into(),
            format!("01{}-more", &VALID[2..]).into_bytes(),
            b"00-00000000000000000000000000000000-0000000000000000-00".to_vec(),
        ];
        crate::fuzz::run("is_traceparent", |rng| {
            let text = String::from_utf8_lossy(&crate::fuzz::mutated(rng, &seeds)).into_owned();
            assert_eq!(is_traceparent(&text), is_one(&text), "{text}");
        });
    }
}
