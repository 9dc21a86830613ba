//! Tables and lines: how things look on a terminal.

use ntonix_config::resource_to_yaml;
use ntonix_proto::{
    admin::v1::{Change, ChangeAction, Revision, Worker, WorkerState},
    config::v1::Resource,
};
use prost_types::{Duration, Timestamp};

/// A table with aligned columns; nothing but its heads when there are no rows.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |cells: [&str; N]| {
        let padded: String = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        padded.trim_end().to_owned() + "\n"
    };
    let heads = line(heads);
    rows.iter().fold(heads, |text, row| text + &line(row.each_ref().map(String::as_str)))
}

/// What is not there is a dash.
pub(crate) fn or_dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// A number, or a dash.
pub(crate) fn number(value: Option<impl ToString>) -> String {
    or_dash(value.map(|value| value.to_string()).unwrap_or_default())
}

/// A time to the second, as in "2027-01-01T00:00:00Z", or a dash.
pub(crate) fn time(time: Option<Timestamp>) -> String {
    or_dash(time.map(|time| Timestamp { nanos: 0, ..time }.to_string()).unwrap_or_default())
}

/// A duration in the unit that suits it, as in "12ms", or a dash.
pub(crate) fn duration(duration: Option<Duration>) -> String {
    let shown = duration.and_then(|duration| std::time::Duration::try_from(duration).ok()).map(|duration| {
        let rounded = if duration.as_millis() > 0 {
            duration.as_millis() as u64 * 1_000_000
        } else {
            duration.as_micros() as u64 * 1_000
        };
        humantime::format_duration(std::time::Duration::from_nanos(rounded)).to_string().replace(' ', "")
    });
    or_dash(shown.unwrap_or_default())
}

/// How long a worker needed, as in " after 12ms"; empty when it had the revision already.
pub(crate) fn took(worker: &Worker) -> String {
    worker.took.map(|took| format!(" after {}", duration(Some(took)))).unwrap_or_default()
}

/// A worker's faults, each on a line of its own after `indent`, starting with a line break; empty when there are none.
pub(crate) fn faults(worker: &Worker, indent: &str) -> String {
    let line = |(path, reason): (&str, &str)| match path {
        "" => format!("\n{indent}{reason}"),
        path => format!("\n{indent}{path}: {reason}"),
    };
    worker.faults.iter().map(|fault| line((&fault.path, &fault.reason))).collect()
}

/// How a worker stands, in a few words.
pub(crate) fn stand(worker: &Worker) -> String {
    match worker.state() {
        WorkerState::UpToDate => "up to date".to_owned(),
        WorkerState::Applying => format!("applying {}", worker.target_revision),
        WorkerState::Refused => format!("refused {}", worker.refused_revision),
        WorkerState::Degraded => "degraded".to_owned(),
        WorkerState::Silent => "silent".to_owned(),
        WorkerState::Disconnected => "disconnected".to_owned(),
        WorkerState::Unspecified => "unknown".to_owned(),
    }
}

/// A revision on one line, as in "revision 3 by local at 2027-01-01T00:00:00Z (rollback to 1): why".
pub(crate) fn revision(revision: &Revision) -> String {
    let mut text = format!("revision {} by {} at {}", revision.number, or_dash(&revision.author), time(revision.time));
    if revision.rollback_of > 0 {
        text += &format!(" (rollback to {})", revision.rollback_of);
    }
    if !revision.message.is_empty() {
        text += &format!(": {}", revision.message);
    }
    text
}

/// What changed, one line for each resource; of an updated one also the fields.
pub(crate) fn changes(changes: &[Change]) -> String {
    changes.iter().map(|change| summary(change) + "\n").collect()
}

/// The same, and below each updated resource the lines that go and come.
pub(crate) fn changes_in_full(changes: &[Change]) -> String {
    changes.iter().map(|change| summary(change) + "\n" + &difference(change)).collect()
}

fn summary(change: &Change) -> String {
    let name = &change.resource;
    match change.action() {
        ChangeAction::Created => format!("  + {name}"),
        ChangeAction::Deleted => format!("  - {name}"),
        ChangeAction::Moved => format!("  > {name} (moved)"),
        ChangeAction::Updated | ChangeAction::Unspecified => format!("  ~ {name}: {}", change.fields.join(", ")),
    }
}

fn difference(change: &Change) -> String {
    if change.action() != ChangeAction::Updated {
        return String::new();
    }
    let yaml = |side: &Option<Resource>| side.as_ref().map(resource_to_yaml).unwrap_or_default();
    let (before, after) = (yaml(&change.before), yaml(&change.after));
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let same_start = before.iter().zip(&after).take_while(|(one, other)| one == other).count();
    let rest = before.len().min(after.len()) - same_start;
    let same_end =
        before.iter().rev().zip(after.iter().rev()).take(rest).take_while(|(one, other)| one == other).count();
    let gone = before[same_start..before.len() - same_end].iter().map(|line| format!("      - {line}\n"));
    let new = after[same_start..after.len() - same_end].iter().map(|line| format!("      + {line}\n"));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use ntonix_proto::config::v1::{Tenant, resource::Kind};

    use super::*;

    fn tenant(models: &[&str]) -> Option<Resource> {
        let models = models.iter().map(|model| (*model).to_owned()).collect();
        Some(Resource { kind: Some(Kind::Tenant(Tenant { name: "t".to_owned(), models, limits: None })) })
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["ü".to_owned(), "-".to_owned()], ["long-name".to_owned(), "x".to_owned()]];
        assert_eq!(table(["NAME", "B"], &rows), "NAME       B\nü          -\nlong-name  x\n");
        assert_eq!(table(["NAME"], &[]), "NAME\n");
    }

    #[test]
    fn what_is_not_there_is_a_dash() {
        assert_eq!(
            (or_dash(""), number(None::<u32>), time(None), duration(None)),
            ("-".into(), "-".into(), "-".into(), "-".into())
        );
    }

    #[test]
    fn times_and_durations_are_short() {
        assert_eq!(time(Some(Timestamp { seconds: 1_798_761_600, nanos: 5 })), "2027-01-01T00:00:00Z");
        assert_eq!(duration(Some(Duration { seconds: 1, nanos: 234_567_890 })), "1s234ms");
        assert_eq!(duration(Some(Duration { seconds: 0, nanos: 12_345 })), "12us");
    }

    #[test]
    fn a_change_shows_the_lines_that_go_and_come() {
        let updated = Change {
            action: ChangeAction::Updated.into(),
            resource: "tenants/t".to_owned(),
            fields: vec!["models".to_owned()],
            before: tenant(&["a", "b", "d"]),
            after: tenant(&["a", "c", "d"]),
        };
        assert_eq!(
            changes_in_full(std::slice::from_ref(&updated)),
            "  ~ tenants/t: models\n      - - b\n      + - c\n"
        );
        assert_eq!(changes(&[updated]), "  ~ tenants/t: models\n");
        for (action, line) in [
            (ChangeAction::Created, "  + keys/k\n"),
            (ChangeAction::Deleted, "  - keys/k\n"),
            (ChangeAction::Moved, "  > keys/k (moved)\n"),
        ] {
            let change = Change { action: action.into(), resource: "keys/k".to_owned(), ..Change::default() };
            assert_eq!(changes_in_full(&[change]), line);
        }
    }

    #[test]
    fn a_rollback_says_of_what() {
        let rolled = Revision {
            number: 4,
            author: "local".to_owned(),
            message: "oops".to_owned(),
            rollback_of: 1,
            ..Revision::default()
        };
        assert_eq!(revision(&rolled), "revision 4 by local at - (rollback to 1): oops");
    }
}
