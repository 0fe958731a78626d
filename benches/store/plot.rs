//! Growth as a picture: rows from left to right, each step ten times the one before, and the CPU time of an
//! event upwards.

use crate::growth::{Growth, Point};
use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 120.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 2] = ["#0b6e99", "#b3541e"];

pub fn draw(growths: &[Growth]) -> String {
    let points = || growths.iter().flat_map(|growth| &growth.points);
    let logarithms = points().map(|point| (point.rows as f64).log10());
    let first = logarithms.clone().fold(f64::INFINITY, f64::min);
    let last = logarithms.fold(first + 1.0, f64::max);
    let top = points().map(|point| point.cpu_us.high).fold(1.0, f64::max);
    let step = step_for(top);
    let top = (top / step).ceil() * step;
    let x = |rows: f64| LEFT + (rows.log10() - first) / (last - first) * (WIDTH - LEFT - RIGHT);
    let y = |us: f64| HEIGHT - BOTTOM - us / top * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
<text x="{LEFT}" y="22" font-size="14">CPU time of one event by the size of the store, in µs</text>
"##
    );
    let mut line = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    let mut tick = 0.0;
    while tick <= top + step / 2.0 {
        let (right, y) = (WIDTH - RIGHT, y(tick));
        line(format!(
            r##"<path d="M{LEFT} {y:.1}H{right}" stroke="#dddddd"/><text x="{:.1}" y="{:.1}" text-anchor="end">{tick}</text>"##,
            LEFT - 8.0,
            y + 4.0
        ));
        tick += step;
    }
    for power in first.ceil() as i32..=last.floor() as i32 {
        let rows = 10_f64.powi(power);
        line(format!(
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            x(rows),
            HEIGHT - BOTTOM + 20.0,
            in_words(rows)
        ));
    }
    line(format!(
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">rows in the store</text>"#,
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 10.0
    ));
    for (growth, colour) in growths.iter().zip(COLOURS) {
        let place = |point: &Point| (x(point.rows as f64), y(point.cpu_us.median));
        let mut path = String::new();
        for point in &growth.points {
            let (x, y_median) = place(point);
            let to = if path.is_empty() { 'M' } else { 'L' };
            write!(path, "{to}{x:.1} {y_median:.1}").ok();
            line(format!(
                r#"<circle cx="{x:.1}" cy="{y_median:.1}" r="3" fill="{colour}"/><path d="M{x:.1} {:.1}V{:.1}" stroke="{colour}"/>"#,
                y(point.cpu_us.low),
                y(point.cpu_us.high)
            ));
        }
        line(format!(
            r#"<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>"#
        ));
        if let Some((x, y)) = growth.points.last().map(place) {
            line(format!(
                r#"<text x="{:.1}" y="{:.1}" fill="{colour}">{}</text>"#,
                x + 10.0,
                y + 4.0,
                growth.store
            ));
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// A round number, of which a handful reach the top.
fn step_for(top: f64) -> f64 {
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
        .into_iter()
        .find(|step| top / step <= 6.0)
        .unwrap_or(200.0)
}

fn in_words(rows: f64) -> String {
    match rows {
        rows if rows >= 1e6 => format!("{} million", rows / 1e6),
        rows if rows >= 1e3 => format!("{},000", rows / 1e3),
        rows => rows.to_string(),
    }
}
