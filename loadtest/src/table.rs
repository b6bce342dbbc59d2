//! Figures of several repetitions: medians, ranges, ratios pair by pair, a Markdown table.

/// Middle and edges of some figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Spread {
    /// `None` without figures.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { median, low, high })
    }

    /// `1.25 (1.10-1.40)` with so many decimals.
    pub fn text(&self, decimals: usize) -> String {
        format!("{:.decimals$} ({:.decimals$}-{:.decimals$})", self.median, self.low, self.high)
    }
}

/// Ratios of figures that were taken one after the other: the n-th against the n-th. Pairs with a gap do not count.
pub fn pair_ratios(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Vec<f64> {
    let pairs = ours.iter().zip(theirs);
    pairs.filter_map(|(ours, theirs)| Some((*ours)? / (*theirs)?)).filter(|ratio| ratio.is_finite()).collect()
}

/// A Markdown table; the first column is text, the others stand right.
pub fn markdown(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count(), 3]).max().unwrap_or(3)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < LEFT_COLUMNS { format!(" {cell:<width$} ") } else { format!(" {cell:>width$} ") }
        });
        format!("|{}|\n", padded.collect::<Vec<_>>().join("|"))
    };
    let rule = widths.iter().enumerate().map(|(column, width)| {
        if column < LEFT_COLUMNS {
            format!(" {} ", "-".repeat(*width))
        } else {
            format!(" {}: ", "-".repeat(width - 1))
        }
    });
    let rule = format!("|{}|\n", rule.collect::<Vec<_>>().join("|"));
    let body: String = rows.iter().map(|row| line(row.iter().map(String::as_str).collect())).collect();
    format!("{}{rule}{body}", line(header.to_vec()))
}

/// Row and program.
const LEFT_COLUMNS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_the_mean_of_the_middle() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).expect("there are figures");
        assert_eq!(spread, Spread { median: 2.5, low: 1.0, high: 4.0 });
        assert_eq!(Spread::of([3.0, 1.0, 2.0]).map(|spread| spread.median), Some(2.0));
        assert_eq!(spread.text(1), "2.5 (1.0-4.0)");
        assert_eq!(Spread::of([f64::NAN]), None);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // A machine that slows down by a half between repetitions does not move them.
        let ours = [Some(1.0), Some(1.5), None, Some(1.0)];
        let theirs = [Some(2.0), Some(3.0), Some(2.0), None];
        assert_eq!(pair_ratios(&ours, &theirs), [0.5, 0.5]);
    }

    #[test]
    fn a_division_by_nothing_is_no_ratio() {
        assert_eq!(pair_ratios(&[Some(1.0)], &[Some(0.0)]), Vec::<f64>::new());
    }

    #[test]
    fn tables_are_markdown() {
        let rows = [vec!["16 × 300 B".to_owned(), "a".to_owned(), "1.00".to_owned()]];
        let text = markdown(&["row", "program", "ratio"], &rows);
        assert_eq!(
            text,
            "| row        | program | ratio |\n| ---------- | ------- | ----: |\n| 16 × 300 B | a       |  1.00 |\n"
        );
    }
}
