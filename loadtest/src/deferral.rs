//! Messages for users who are not registered: durable 202 responses.

use crate::cli::{Common, Deferral};
use crate::pager::{Pace, Plan, drive};
use crate::setup::Stage;
use crate::template;
use std::time::Duration;

/// Makes the users known, measures, and looks into some queues.
pub fn run(common: &Common, options: &Deferral, stage: &mut Stage) -> Result<bool, String> {
    stage.put_preferences(common.users)?;
    let message = template::message(&stage.places, true, common.message_len)?;
    let plan = Plan {
        pace: Pace::Closed { window: options.in_flight },
        users: common.users,
        expected: 202,
        count_max: None,
        warm_up: Duration::from_secs(u64::from(options.warm_up)),
        measured: Duration::from_secs(u64::from(options.seconds)),
    };
    let title = format!(
        "deferral {:?} in flight {} users {} message {} B",
        common.transport,
        options.in_flight,
        common.users,
        message.len()
    );
    let mut report = drive(stage, message, &plan, title, |core, report| {
        core.receive(|_, _| report.error("forwarded although nobody is registered"))
    })?;
    // Users take turns: all queues are of one length, give or take the last turn.
    let mut lengths = Vec::new();
    for user in (0..common.users).step_by((common.users as usize / 10).max(1)) {
        lengths.push(queue_len(stage, user)?);
    }
    let (shortest, longest) = (lengths.iter().min().copied().unwrap_or(0), lengths.iter().max().copied().unwrap_or(0));
    if shortest == 0 || longest - shortest > 1 {
        report.error(format!("queues of {shortest} to {longest} messages"));
    }
    report.note("messages in each queue", longest);
    report.print();
    Ok(report.is_clean())
}

/// Deferred messages of a user, as the admin API lists them.
pub fn queue_len(stage: &mut Stage, user: u32) -> Result<u64, String> {
    let path = format!("/admin/users/{}/deferred", template::user_uri(user));
    let list = stage.http.get(&path)?.unwrap_or_default();
    Ok(list.matches("\"id\":").count() as u64)
}
