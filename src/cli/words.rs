//! How times, durations and outcomes look in text.

use super::model::{Outcome, Time};
use chrono::SecondsFormat;
use clap::builder::styling::{AnsiColor, Style};

pub(super) const RED: Style = AnsiColor::Red.on_default().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const BOLD: Style = Style::new().bold();
pub(super) const MAGENTA: Style = AnsiColor::Magenta.on_default();

/// A text in a style. Whoever prints it takes the style away where there is no color.
pub(super) fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// An outcome's sign and color: what it is shows without color, too.
pub(super) const fn sign(outcome: Outcome) -> (char, AnsiColor) {
    match outcome {
        Outcome::Running => ('▶', AnsiColor::Blue),
        Outcome::Completed => ('✓', AnsiColor::Green),
        Outcome::Failed => ('✗', AnsiColor::Red),
        Outcome::Cancelled => ('⊘', AnsiColor::Yellow),
        Outcome::TimedOut => ('◔', AnsiColor::Red),
        Outcome::Terminated => ('■', AnsiColor::Red),
        Outcome::ContinuedAsNew => ('↻', AnsiColor::Cyan),
        Outcome::WillCompleteAsync => ('…', AnsiColor::Blue),
        Outcome::Unknown => ('?', AnsiColor::Yellow),
    }
}

/// An outcome with its sign, in color.
pub(super) fn outcome(outcome: Outcome) -> String {
    let (sign, color) = sign(outcome);
    paint(color.on_default(), format!("{sign} {outcome}"))
}

/// A duration in milliseconds, with about three digits.
pub(super) fn duration(ms: f64) -> String {
    let whole = |unit: f64| (ms / unit).floor();
    let (second, minute, hour, day) = (1e3, 60e3, 3600e3, 86400e3);
    if ms < 9.95 {
        format!("{ms:.1} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if ms < 9.995 * second {
        format!("{:.2} s", ms / second)
    } else if ms < 59.95 * second {
        format!("{:.1} s", ms / second)
    } else if ms < hour {
        let seconds = ((ms - whole(minute) * minute) / second).floor();
        format!("{} min {seconds} s", whole(minute))
    } else if ms < day {
        let minutes = ((ms - whole(hour) * hour) / minute).floor();
        format!("{} h {minutes} min", whole(hour))
    } else {
        let hours = ((ms - whole(day) * day) / hour).floor();
        format!("{} d {hours} h", whole(day))
    }
}

/// A time for people: to the second, in UTC.
pub(super) fn time(time: Time) -> String {
    time.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A time as events have it.
pub(super) fn exactly(time: Time) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// A number with its noun.
pub(super) fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short_and_right() {
        for (ms, text) in [
            (0.04, "0.0 ms"),
            (2.26, "2.3 ms"),
            (309.91, "310 ms"),
            (999.9, "1.00 s"),
            (1104.3, "1.10 s"),
            (12_300.0, "12.3 s"),
            (59_990.0, "0 min 59 s"),
            (192_000.0, "3 min 12 s"),
            (7_500_000.0, "2 h 5 min"),
            (273_600_000.0, "3 d 4 h"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }
}
