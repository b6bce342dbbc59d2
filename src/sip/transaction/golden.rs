//! Compares the transition tables with `tests/golden/`, where a review lays them beside the figures.
//!
//! `UPDATE_GOLDEN=1` rewrites the files; the diff is reviewed.

use super::{invite_client, invite_server, non_invite_client, non_invite_server};
use std::fmt::{Debug, Write};
use std::path::Path;

#[test]
fn the_invite_client_follows_figure_5() {
    use invite_client::{Event, State};
    let title = "INVITE client transaction: RFC 3261 Figure 5 with RFC 6026 §7.2";
    compare("transaction_invite_client.txt", &table(title, &State::ALL, &Event::ALL, State::next));
}

#[test]
fn the_non_invite_client_follows_figure_6() {
    use non_invite_client::{Event, State};
    let title = "Non-INVITE client transaction: RFC 3261 Figure 6";
    compare("transaction_non_invite_client.txt", &table(title, &State::ALL, &Event::ALL, State::next));
}

#[test]
fn the_invite_server_follows_figure_7() {
    use invite_server::{Event, State};
    let title = "INVITE server transaction: RFC 3261 Figure 7 with RFC 6026 §7.1";
    compare("transaction_invite_server.txt", &table(title, &State::ALL, &Event::ALL, State::next));
}

#[test]
fn the_non_invite_server_follows_figure_8() {
    use non_invite_server::{Event, State};
    let title = "Non-INVITE server transaction: RFC 3261 Figure 8, erratum 1470";
    compare("transaction_non_invite_server.txt", &table(title, &State::ALL, &Event::ALL, State::next));
}

/// Every state with every event: the state it leads to, or `-` where the figure draws no arrow.
fn table<S: Copy + Debug, E: Copy + Debug>(
    title: &str,
    states: &[S],
    events: &[E],
    next: impl Fn(S, E) -> Option<S>,
) -> String {
    let mut text = format!("{title}\n\n{:16}", "");
    for state in states {
        write!(text, "{:12}", format!("{state:?}")).expect("a String takes any text");
    }
    for event in events {
        text.truncate(text.trim_end().len());
        write!(text, "\n{:16}", format!("{event:?}")).expect("a String takes any text");
        for state in states {
            let to = next(*state, *event).map_or("-".to_owned(), |to| format!("{to:?}"));
            write!(text, "{to:12}").expect("a String takes any text");
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn compare(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{name} differs; UPDATE_GOLDEN=1 rewrites it, the diff is reviewed");
}
