//! Printing: message ladders, verdicts, the summary.

use std::io::{self, Write};
use std::time::Duration;

/// A column of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// Whoever sends messages.
    Sender,
    /// The appliance.
    Ringpost,
    /// The SIP/IP core and the interworking selection function.
    Core,
}

/// Draws arrows between three columns.
pub struct Ladder<W: Write> {
    out: W,
    colours: bool,
}

impl<W: Write> Ladder<W> {
    /// A ladder on `out`, with coloured verdicts if asked for.
    pub fn new(out: W, colours: bool) -> Self {
        Self { out, colours }
    }

    /// Begins a step: its title and the heads of the columns.
    pub fn begin(&mut self, number: usize, title: &str) -> io::Result<()> {
        writeln!(self.out, "\n== {number}. {title}\n")?;
        let mut line = Line::new();
        line.centre(SENDER, "alice");
        line.centre(RINGPOST, "ringpost");
        line.centre(CORE, "core / ISF");
        writeln!(self.out, "{}", line.text())?;
        writeln!(self.out, "{}", Line::with_bars().text())
    }

    /// One message: an arrow with its label on it, and its telling headers below.
    pub fn arrow(&mut self, from: Column, to: Column, label: &str, details: &[String]) -> io::Result<()> {
        assert!(from != to, "a message goes from one column to another");
        let (left, right) = (place(from.min(to)), place(from.max(to)));
        let label = shorten(label, right - left - 9);
        let mut line = Line::with_bars();
        line.fill(left + 1, right - 1, '-');
        line.write(left + 4, &format!(" {label} "));
        match from < to {
            true => line.write(right - 1, ">"),
            false => line.write(left + 1, "<"),
        }
        writeln!(self.out, "{}", line.text())?;
        for text in details.iter().flat_map(|detail| wrap(detail, right - left - 6)) {
            let mut line = Line::with_bars();
            line.write(left + 4, &text);
            writeln!(self.out, "{}", line.text())?;
        }
        Ok(())
    }

    /// Something that happens beside SIP: HTTP, a signal, what the core does by itself.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{:indent$}* {}", "", shorten(text, WIDTH - SENDER - 2), indent = SENDER)
    }

    /// Ends a step.
    pub fn verdict(&mut self, passed: bool, why: &str, took: Duration) -> io::Result<()> {
        let word = self.word(passed);
        writeln!(self.out, "\n   {word}  {why} ({} ms)", took.as_millis())
    }

    /// The last table: one line for each step.
    pub fn summary(&mut self, steps: &[(String, bool, Duration)], total: Duration) -> io::Result<()> {
        writeln!(self.out, "\n== Summary\n")?;
        for (index, (title, passed, took)) in steps.iter().enumerate() {
            let word = self.word(*passed);
            writeln!(self.out, "   {word}  {:>2}. {title:<64} {:>6} ms", index + 1, took.as_millis())?;
        }
        let passed = steps.iter().filter(|(_, passed, _)| *passed).count();
        writeln!(self.out, "\n   {passed} of {} steps passed in {:.1} s", steps.len(), total.as_secs_f64())?;
        self.out.flush()
    }

    /// Decision counters, as the metrics page names them.
    pub fn counters(&mut self, title: &str, rows: &[(String, u64)]) -> io::Result<()> {
        writeln!(self.out, "\n== {title}\n")?;
        for (name, value) in rows {
            writeln!(self.out, "   {name:<64} {value:>6}")?;
        }
        Ok(())
    }

    /// A plain paragraph.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    fn word(&self, passed: bool) -> &'static str {
        match (passed, self.colours) {
            (true, false) => "PASS",
            (false, false) => "FAIL",
            (true, true) => "\x1b[32mPASS\x1b[0m",
            (false, true) => "\x1b[1;31mFAIL\x1b[0m",
        }
    }
}

/// One line of characters, written over each other.
struct Line(Vec<char>);

impl Line {
    fn new() -> Self {
        Self(vec![' '; WIDTH])
    }

    fn with_bars() -> Self {
        let mut line = Self::new();
        for column in [SENDER, RINGPOST, CORE] {
            line.write(column, "|");
        }
        line
    }

    fn write(&mut self, at: usize, text: &str) {
        for (cell, character) in self.0.iter_mut().skip(at).zip(text.chars()) {
            *cell = character;
        }
    }

    fn fill(&mut self, from: usize, to: usize, with: char) {
        self.0[from..=to].fill(with);
    }

    fn centre(&mut self, column: usize, text: &str) {
        self.write(column.saturating_sub(text.chars().count() / 2), text);
    }

    fn text(&self) -> String {
        self.0.iter().collect::<String>().trim_end().to_owned()
    }
}

fn place(column: Column) -> usize {
    match column {
        Column::Sender => SENDER,
        Column::Ringpost => RINGPOST,
        Column::Core => CORE,
    }
}

/// Breaks a text into a few lines of a width, where it can behind a separator.
fn wrap(text: &str, width: usize) -> Vec<String> {
    const INDENT: &str = "  ";
    let mut lines = Vec::new();
    let mut rest = text.to_owned();
    while rest.chars().count() > width && lines.len() + 1 < DETAIL_LINES_MAX {
        let fitting: String = rest.chars().take(width).collect();
        // Not in front of the first third: a line that is nearly empty reads worse than a broken word.
        let separator = fitting.rfind([' ', ',', ';']).filter(|at| *at > width / 3);
        let end = separator.map_or(fitting.len(), |at| at + 1);
        lines.push(shorten(rest[..end].trim_end(), width));
        rest = format!("{INDENT}{}", rest[end..].trim_start());
    }
    lines.push(shorten(&rest, width));
    lines
}

/// Cuts a text to a width, with two dots where something is missing; control characters become spaces.
fn shorten(text: &str, width: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.chars().count() <= width {
        return clean;
    }
    let mut short: String = clean.chars().take(width.saturating_sub(2)).collect();
    short.push_str("..");
    short
}

const SENDER: usize = 5;
const RINGPOST: usize = 55;
const CORE: usize = 105;
const WIDTH: usize = 118;
const DETAIL_LINES_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(draw: impl FnOnce(&mut Ladder<&mut Vec<u8>>)) -> String {
        let mut out = Vec::new();
        draw(&mut Ladder::new(&mut out, false));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_arrow_points_to_the_receiver_and_carries_its_label() {
        let right = drawn(|ladder| ladder.arrow(Column::Sender, Column::Ringpost, "MESSAGE", &[]).unwrap());
        let left = drawn(|ladder| ladder.arrow(Column::Core, Column::Ringpost, "200 OK", &[]).unwrap());
        let bar = |n: usize| " ".repeat(n);
        assert_eq!(right, format!("     |--- MESSAGE {}>|{}|\n", "-".repeat(36), bar(49)));
        assert_eq!(left, format!("     |{}|<-- 200 OK {}|\n", bar(49), "-".repeat(38)));
    }

    #[test]
    fn details_stand_in_the_lane_of_their_arrow() {
        let text = drawn(|ladder| {
            let detail = "Call-ID: 1@a.example".to_owned();
            ladder.arrow(Column::Ringpost, Column::Core, "MESSAGE", &[detail]).unwrap();
        });
        let second = text.lines().nth(1).unwrap();
        assert_eq!(second.find("Call-ID: 1@a.example"), Some(RINGPOST + 4));
        assert_eq!(second.rfind('|'), Some(CORE));
    }

    #[test]
    fn what_is_too_long_is_cut_inside_its_lane() {
        let long = "x".repeat(200);
        let text = drawn(|ladder| {
            ladder.arrow(Column::Sender, Column::Ringpost, &long, &[format!("Route: {long}\r\nEvil: 1")]).unwrap();
        });
        for line in text.lines() {
            assert_eq!(line.chars().nth(RINGPOST), Some('|'), "{line}");
        }
        assert!(text.lines().next().unwrap().contains("..") && text.lines().last().unwrap().contains(".."), "{text}");
        assert_eq!(text.lines().count(), 1 + DETAIL_LINES_MAX);
    }

    #[test]
    fn a_long_header_is_wrapped_behind_a_separator() {
        let lines = wrap("Accept-Contact: *;+sip.instance=\"<urn:uuid:1>\";require;explicit", 44);
        assert_eq!(lines, ["Accept-Contact: *;", "  +sip.instance=\"<urn:uuid:1>\";require;", "  explicit"]);
        assert_eq!(wrap("Expires: 0", 44), ["Expires: 0"]);
    }

    #[test]
    fn the_summary_counts_what_passed() {
        let text = drawn(|ladder| {
            let steps = [("One".to_owned(), true, Duration::from_millis(5)), ("Two".to_owned(), false, Duration::ZERO)];
            ladder.summary(&steps, Duration::from_millis(1_500)).unwrap();
        });
        assert!(text.contains("PASS   1. One") && text.contains("FAIL   2. Two"), "{text}");
        assert!(text.ends_with("1 of 2 steps passed in 1.5 s\n"), "{text}");
    }
}
