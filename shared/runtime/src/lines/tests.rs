use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;
use crate::telemetry::samples::told;

fn written(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn writer(path: &Path) -> Writer {
    Writer::new(Sink::open(&Destination::File(path.to_owned())).unwrap(), Arc::default())
}

fn write(writer: &mut Writer, lines: &[&str]) {
    lines.iter().for_each(|line| writer.take(line.as_bytes()));
    writer.write_out();
}

#[test]
fn what_waits_is_written_when_the_guard_goes_and_appended_to_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.jsonl");
    for round in ["1\n", "2\n"] {
        let (lines, guard) = open(Destination::File(path.clone())).unwrap();
        (0..3).for_each(|_| lines.write(round.into()));
        drop(guard);
        assert_eq!((lines.lost(), lines.state.waiting.load(Ordering::Relaxed)), (0, 0));
    }
    assert_eq!(written(&path), "1\n1\n1\n2\n2\n2\n");
}

#[test]
fn after_a_rotation_lines_go_to_the_new_file_whether_or_not_somebody_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
    let mut writer = writer(&path);
    write(&mut writer, &["old\n"]);
    fs::rename(&path, &moved).unwrap();
    write(&mut writer, &["new\n"]);
    assert_eq!((written(&moved).as_str(), written(&path).as_str()), ("old\n", "new\n"));
    fs::remove_file(&path).unwrap();
    writer.state.reopen.store(true, Ordering::Release);
    write(&mut writer, &["newer\n"]);
    assert_eq!(written(&path), "newer\n");
}

#[test]
fn a_file_that_cannot_be_opened_again_is_tried_with_the_next_lines() {
    let folder = tempfile::tempdir().unwrap();
    let (logs, away) = (folder.path().join("logs"), folder.path().join("away"));
    fs::create_dir(&logs).unwrap();
    let mut writer = writer(&logs.join("log"));
    let told = told(|| {
        fs::rename(&logs, &away).unwrap();
        write(&mut writer, &["1\n"]);
        write(&mut writer, &["2\n"]);
        assert_eq!(written(&away.join("log")), "1\n2\n", "to the old one, rather than nowhere");
        fs::create_dir(&logs).unwrap();
        write(&mut writer, &["3\n"]);
        assert_eq!(written(&logs.join("log")), "3\n");
    });
    assert_eq!(told.lines().count(), 2, "once that it begins, and once that it is over: {told}");
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_full_disk_refuses_is_counted_line_by_line() {
    let mut writer = writer(Path::new("/dev/full"));
    for lines in [&["a\n", "b\n"][..], &["c\n"]] {
        write(&mut writer, lines);
    }
    assert_eq!(writer.state.lost.load(Ordering::Relaxed), 3);
}

/// A file with half a line, and its writer, who knows.
fn torn(folder: &Path) -> (PathBuf, Writer) {
    let path = folder.join("log");
    let mut writer = writer(&path);
    fs::write(&path, "ha").unwrap();
    writer.is_torn = true;
    (path, writer)
}

/// Also when whoever rotates says so although the file is the same.
#[test]
fn a_line_that_was_torn_ends_before_the_next_begins() {
    for is_reopened in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut writer) = torn(folder.path());
        writer.state.reopen.store(is_reopened, Ordering::Release);
        write(&mut writer, &["whole\n"]);
        assert_eq!(written(&path), "ha\nwhole\n");
    }
}

/// A full disk leaves half a line in a file that is moved away then.
#[test]
fn half_a_line_is_left_behind_in_the_file_that_was_moved_away() {
    let folder = tempfile::tempdir().unwrap();
    let ((path, mut writer), moved) = (torn(folder.path()), folder.path().join("log.1"));
    fs::rename(&path, &moved).unwrap();
    write(&mut writer, &["whole\n"]);
    assert_eq!((written(&moved).as_str(), written(&path).as_str()), ("ha", "whole\n"));
}

/// Two disks that are full, one after the other.
#[cfg(target_os = "linux")]
#[test]
fn the_end_of_an_outage_tells_what_was_lost_in_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let told = told(|| {
        let mut writer = writer(&path);
        for lines in [&["a\n", "b\n"][..], &["c\n"]] {
            fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("/dev/full", &path).unwrap();
            write(&mut writer, lines);
            fs::remove_file(&path).unwrap();
            write(&mut writer, &["d\n"]);
        }
    });
    let path = path.display();
    let begins = format!("ERROR Lines cannot be written and are lost destination={path} error=No space left on device");
    let ends = |lost: u64| format!(" INFO Lines are written again destination={path} lost={lost}");
    for (line, said) in told.lines().zip([&begins, &ends(2), &begins, &ends(1)]) {
        assert!(line.starts_with(said), "{line}");
    }
    assert_eq!(told.lines().count(), 4, "{told}");
}

#[test]
fn a_queue_that_is_full_loses_lines_and_counts_them() {
    let (queue, _orders) = sync_channel(1);
    let lines = Lines { queue, state: Arc::default() };
    (0..3).for_each(|_| lines.write(b"x\n".into()));
    assert_eq!(lines.lost(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn a_named_pipe_is_refused_instead_of_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert_eq!(open(Destination::File(path)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_file_that_cannot_be_made_is_told_at_once() {
    assert!(open(Destination::File("/nowhere/at/all".into())).is_err());
}
