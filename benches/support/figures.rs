//! Medians, and how far the figures lie apart.
#![allow(dead_code, reason = "each program uses its part")]

use std::fmt;

/// The median of some figures, with the quartiles around it.
#[derive(Clone, Copy)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        Self {
            low: at(&figures, 0.25),
            median: at(&figures, 0.5),
            high: at(&figures, 0.75),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(
            f,
            "{:.digits$} ({:.digits$}..{:.digits$})",
            self.median, self.low, self.high
        )
    }
}

/// The figure at a part of the way through sorted figures, between two of them if need be.
pub fn at(sorted: &[f64], part: f64) -> f64 {
    let place = part * sorted.len().saturating_sub(1) as f64;
    let lower = sorted.get(place.floor() as usize).copied();
    let upper = sorted.get(place.ceil() as usize).copied();
    match (lower, upper) {
        (Some(lower), Some(upper)) => lower + (upper - lower) * place.fract(),
        _ => f64::NAN,
    }
}
