//! Times of activations and of histories, which are protobuf's, as events and `std` have them. Knows nothing else.

use std::time::SystemTime;

/// Returns a time; none if there is none, or if `std` cannot have it. The SDK's messages have their times in types of two
/// crates, `prost-types` and `prost-wkt-types`.
pub(super) fn time<T>(timestamp: Option<T>) -> Option<SystemTime>
where
    SystemTime: TryFrom<T>,
{
    SystemTime::try_from(timestamp?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp;
    use std::time::Duration;

    #[test]
    fn what_is_no_time_is_none() {
        let at = |seconds, nanos| time(Some(Timestamp { seconds, nanos }));
        let expected = SystemTime::UNIX_EPOCH + Duration::new(5, 7);
        assert_eq!(at(5, 7), Some(expected));
        assert_eq!(time(None::<Timestamp>), None);
    }
}
