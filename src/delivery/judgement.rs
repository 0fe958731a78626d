//! Who is at fault when a receiver refuses events: these events, or the place. A rule over what became of the events
//! around them; `docs/sinks.md` has it in words. Knows no sink and no journal.

/// From so many refused events in a row on, the place is at fault, unless it takes one behind them.
pub(super) const MANY: usize = 10;
/// How far it is looked for an event that a place takes which seems to be at fault.
pub(super) const LOOK_AHEAD: usize = 100;
/// How often a receiver is asked about events behind which there is nothing, before they are at fault.
const HEARINGS: u32 = 3;

/// A row of events that a receiver refused one after the other, with what is known around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// How many events it has.
    pub(super) refused: usize,
    /// How many were given up since the receiver last took one: they stand before this row.
    pub(super) given_up: usize,
    /// Whether the receiver ever took an event before it. When is no matter: it may have lost its rights since, in the
    /// midst of a batch.
    pub(super) has_taken: bool,
    /// Whether the receiver took the event behind it.
    pub(super) is_taken_behind: bool,
    /// Whether there are events behind it that were not handed over yet.
    pub(super) has_more: bool,
    /// How many refused events are looked past now.
    pub(super) look_ahead: usize,
    /// How often the receiver was asked about them while nothing was behind them, this time included.
    pub(super) hearings: u32,
}

/// What follows for a row of refused events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// They are dead letters.
    EventsAtFault,
    /// It is an outage: nothing is given up.
    PlaceAtFault,
    /// Not known yet: the events behind them are handed over.
    LookFurther,
    /// Not known yet, and there is nothing behind them: they are handed over again after a pause.
    AskAgain,
}

/// Judges a row, which is never empty.
pub(super) fn judge(row: Row) -> Judgement {
    if row.is_taken_behind {
        return Judgement::EventsAtFault;
    }
    if row.has_more {
        return match row.refused < row.look_ahead {
            true => Judgement::LookFurther,
            false => Judgement::PlaceAtFault,
        };
    }
    let is_one_of_many = row.given_up.saturating_add(row.refused) >= MANY;
    let is_alike = !row.has_taken || row.refused > 1;
    if is_one_of_many || is_alike {
        Judgement::PlaceAtFault
    } else if row.hearings < HEARINGS {
        Judgement::AskAgain
    } else {
        Judgement::EventsAtFault
    }
}

#[cfg(test)]
mod tests {
    use super::{Judgement::*, *};

    #[test]
    fn the_rule() {
        /// A row with nothing before, behind or more.
        const ALONE: Row = Row {
            refused: 1,
            given_up: 0,
            has_taken: false,
            is_taken_behind: false,
            has_more: false,
            look_ahead: MANY,
            hearings: HEARINGS,
        };
        let table = [
            // What it takes behind them shows that they are at fault, whatever was before, and however many they are.
            (
                Row {
                    is_taken_behind: true,
                    ..ALONE
                },
                EventsAtFault,
            ),
            (
                Row {
                    is_taken_behind: true,
                    refused: LOOK_AHEAD,
                    has_more: true,
                    ..ALONE
                },
                EventsAtFault,
            ),
            (
                Row {
                    is_taken_behind: true,
                    given_up: MANY,
                    ..ALONE
                },
                EventsAtFault,
            ),
            // Before that, it is looked further, but not past many.
            (
                Row {
                    has_more: true,
                    ..ALONE
                },
                LookFurther,
            ),
            (
                Row {
                    has_more: true,
                    has_taken: true,
                    ..ALONE
                },
                LookFurther,
            ),
            (
                Row {
                    has_more: true,
                    refused: MANY - 1,
                    ..ALONE
                },
                LookFurther,
            ),
            (
                Row {
                    has_more: true,
                    refused: MANY,
                    ..ALONE
                },
                PlaceAtFault,
            ),
            (
                Row {
                    has_more: true,
                    refused: MANY,
                    has_taken: true,
                    ..ALONE
                },
                PlaceAtFault,
            ),
            // While the place seems to be at fault: not at all, or far.
            (
                Row {
                    has_more: true,
                    look_ahead: 1,
                    ..ALONE
                },
                PlaceAtFault,
            ),
            (
                Row {
                    has_more: true,
                    look_ahead: LOOK_AHEAD,
                    refused: MANY,
                    ..ALONE
                },
                LookFurther,
            ),
            (
                Row {
                    has_more: true,
                    look_ahead: LOOK_AHEAD,
                    refused: LOOK_AHEAD,
                    ..ALONE
                },
                PlaceAtFault,
            ),
            // With nothing behind them: it depends on what was before.
            (ALONE, PlaceAtFault),
            (
                Row {
                    refused: 2,
                    ..ALONE
                },
                PlaceAtFault,
            ),
            (
                Row {
                    has_taken: true,
                    ..ALONE
                },
                EventsAtFault,
            ),
            (
                Row {
                    has_taken: true,
                    hearings: HEARINGS - 1,
                    ..ALONE
                },
                AskAgain,
            ),
            (
                Row {
                    has_taken: true,
                    refused: 2,
                    ..ALONE
                },
                PlaceAtFault,
            ),
            (
                Row {
                    has_taken: true,
                    refused: 2,
                    hearings: 1,
                    ..ALONE
                },
                PlaceAtFault,
            ),
            (
                Row {
                    has_taken: true,
                    refused: MANY,
                    ..ALONE
                },
                PlaceAtFault,
            ),
            // Single ones in a row are many, too, sooner or later.
            (
                Row {
                    has_taken: true,
                    given_up: MANY - 2,
                    ..ALONE
                },
                EventsAtFault,
            ),
            (
                Row {
                    has_taken: true,
                    given_up: MANY - 1,
                    ..ALONE
                },
                PlaceAtFault,
            ),
        ];
        for (row, wanted) in table {
            assert_eq!(judge(row), wanted, "{row:?}");
        }
    }
}
