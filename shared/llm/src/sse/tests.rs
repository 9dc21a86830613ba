//! Decoder and splitter: limits, the format's corners, and the same result for every split.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 4_096;

/// Cuts `stream` at the given places, in any order and any number.
fn split<'a>(stream: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect()
}

fn decode(chunks: &[&[u8]], limit: usize) -> (Vec<Event>, Result<(), TooLong>) {
    let mut decoder = Decoder::new(limit);
    let mut events = Vec::new();
    for chunk in chunks {
        let fed = decoder.feed(chunk);
        events.extend(decoder.by_ref());
        if fed.is_err() {
            return (events, fed);
        }
    }
    (events, Ok(()))
}

/// What a relay would see and send.
#[derive(Debug, PartialEq, Eq)]
struct Relayed {
    blocks: Vec<Vec<u8>>,
    forwarded: Vec<u8>,
    too_long: bool,
}

fn relay(chunks: &[&[u8]], limit: usize, decide: impl Fn(&Block<'_>) -> Keep) -> Relayed {
    let mut splitter = Splitter::new(limit);
    let mut relayed = Relayed { blocks: Vec::new(), forwarded: Vec::new(), too_long: false };
    for chunk in chunks {
        let forward = splitter.scan(Bytes::copy_from_slice(chunk), &mut |block| {
            relayed.blocks.push(block.raw().to_vec());
            decide(&block)
        });
        match forward {
            Ok(bytes) => relayed.forwarded.extend(bytes),
            Err(too_long) => {
                relayed.forwarded.extend(too_long.before);
                relayed.too_long = true;
            }
        }
    }
    relayed
}

fn forward(_: &Block<'_>) -> Keep {
    Keep::Forward
}

fn event(data: &str) -> Event {
    Event { data: data.to_owned(), ..Event::default() }
}

// --- the splitter, failures first

#[test]
fn an_event_over_the_limit_is_an_error_that_carries_what_came_before() {
    let stream = [b"data: a\n\n".as_slice(), b"data: ", &[b'x'; 100], b"\n\n", b"data: b\n\n"].concat();
    let mut splitter = Splitter::new(50);
    let error = splitter.scan(Bytes::from(stream), &mut |_| Keep::Forward).unwrap_err();
    assert_eq!(error, TooLong { limit: 50, before: Bytes::from_static(b"data: a\n\n") });
    assert_eq!(error.to_string(), "one event is longer than 50 bytes");
    assert_eq!(splitter.scan(Bytes::from_static(b"data: c\n\n"), &mut |_| Keep::Forward), Ok(Bytes::new()));
}

#[test]
fn an_endless_event_never_holds_more_than_the_limit() {
    let mut splitter = Splitter::new(1_000);
    let chunk = Bytes::from_static(&[b'x'; 300]);
    for _ in 0..3 {
        assert_eq!(splitter.scan(chunk.clone(), &mut |_| Keep::Forward), Ok(Bytes::new()));
    }
    assert_eq!(splitter.pending(), 900);
    assert!(splitter.scan(chunk, &mut |_| Keep::Forward).is_err());
    assert_eq!(splitter.pending(), 0);
}

#[test]
fn an_endless_comment_holds_next_to_nothing() {
    let mut splitter = Splitter::new(100);
    for _ in 0..10 {
        assert_eq!(splitter.scan(Bytes::from_static(&[b':'; 60]), &mut |_| Keep::Forward), Ok(Bytes::new()));
        assert_eq!(splitter.pending(), 1);
    }
    let rest = splitter.scan(Bytes::from_static(b"\ndata: a\n\n"), &mut |_| Keep::Forward);
    assert_eq!(rest, Ok(Bytes::from_static(b"data: a\n\n")));
}

#[test]
fn an_unfinished_event_is_not_forwarded() {
    let mut splitter = Splitter::new(LIMIT);
    let forwarded = splitter.scan(Bytes::from_static(b"data: a\n\ndata: b\n"), &mut |_| Keep::Forward);
    assert_eq!(forwarded, Ok(Bytes::from_static(b"data: a\n\n")));
    assert_eq!(splitter.pending(), 8);
}

#[test]
fn whole_events_are_forwarded_without_a_copy() {
    let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\n");
    let forwarded = Splitter::new(LIMIT).scan(chunk.clone(), &mut |_| Keep::Forward).unwrap();
    assert_eq!((forwarded.as_ptr(), forwarded.len()), (chunk.as_ptr(), chunk.len()));
}

#[test]
fn a_chunk_that_ends_inside_an_event_is_sliced_not_copied() {
    let chunk = Bytes::from_static(b":\n\ndata: a\n\ndata: b");
    let forwarded = Splitter::new(LIMIT).scan(chunk.clone(), &mut |_| Keep::Forward).unwrap();
    assert_eq!((forwarded.as_ptr(), forwarded.len()), (chunk[3..].as_ptr(), 9));
}

#[test]
fn marks_comments_and_blank_lines_between_events_are_absorbed() {
    let stream = b"\xEF\xBB\xBF\n: ping\n\ndata: a\n\n\n\n:\ndata: b\n: inside\ndata: c\n\n: end\n\n";
    let relayed = relay(&[stream], LIMIT, forward);
    assert_eq!(relayed.forwarded, b"data: a\n\ndata: b\n: inside\ndata: c\n\n");
}

#[test]
fn every_line_end_is_kept_as_it_came() {
    let stream = b"data: a\r\n\r\ndata: b\r\rdata: c\n\r\ndata: d\r\n\n";
    let relayed = relay(&[stream], LIMIT, forward);
    assert_eq!(relayed.forwarded, stream);
    assert_eq!(relayed.blocks, [&b"data: a\r\n"[..], b"data: b\r", b"data: c\n", b"data: d\r\n"]);
}

#[test]
fn a_stream_with_bare_cr_is_not_held_back() {
    let mut splitter = Splitter::new(LIMIT);
    let forwarded = splitter.scan(Bytes::from_static(b"data: a\r\r"), &mut |_| Keep::Forward);
    assert_eq!(forwarded, Ok(Bytes::from_static(b"data: a\r\r")));
}

#[test]
fn dropped_replaced_and_stopped_events_leave_the_others_untouched() {
    let stream = b"data: a\n\ndata: drop\r\n\r\ndata: b\n\ndata: replace\r\n\r\ndata: c\n\ndata: stop\n\ndata: d\n\n";
    let decide = |block: &Block<'_>| match block.data().as_ref() {
        b"drop" => Keep::Drop,
        b"replace" => Keep::Replace(Bytes::from_static(b"data: new\n\n")),
        b"stop" => Keep::Stop,
        _ => Keep::Forward,
    };
    let relayed = relay(&[stream], LIMIT, decide);
    assert_eq!(relayed.forwarded, b"data: a\n\ndata: b\n\ndata: new\n\ndata: c\n\n");
    assert_eq!(relayed.blocks.len(), 6);
}

#[test]
fn a_block_tells_its_payload_and_its_name() {
    let block = Block::new(b"event: x\ndata: a\n:c\nid\ndata:b\r\ndata:  c\revent: y\n");
    assert_eq!(block.data().as_ref(), b"a\nb\n c");
    assert_eq!(block.name(), Some(&b"y"[..]));
    assert_eq!(block.field(b"id"), Some(&b""[..]));
    let single = Block::new(b"data: a\r\n");
    assert!(matches!(single.data(), std::borrow::Cow::Borrowed(b"a")));
    assert_eq!(single.name(), None);
    assert_eq!(Block::new(b"retry: 1\n").data().as_ref(), b"");
}

// --- the decoder

#[test]
fn a_line_or_an_event_over_the_limit_is_an_error_after_the_earlier_events() {
    let (events, fed) = decode(&[b"data: a\n\ndata: 0123456789\n\n"], 12);
    assert_eq!((events, fed.is_err()), (vec![event("a")], true));
    let (events, fed) = decode(&[b"data: 12345\ndata: 12345\ndata: 12345\n\n"], 12);
    assert_eq!((events, fed.is_err()), (vec![], true));
}

#[test]
fn an_unfinished_event_is_discarded() {
    let (events, _) = decode(&[b"data: a\n\ndata: b\n"], LIMIT);
    assert_eq!(events, [event("a")]);
}

#[test]
fn the_examples_of_the_format_come_out_as_it_says() {
    let (events, _) = decode(&[b"data: YHOO\ndata: +2\ndata: 10\n\n"], LIMIT);
    assert_eq!(events, [event("YHOO\n+2\n10")]);

    let (events, _) =
        decode(&[b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third\n\n"], LIMIT);
    let with_id = |data: &str, id: &str| Event { id: Some(id.to_owned()), ..event(data) };
    assert_eq!(events, [with_id("first event", "1"), with_id("second event", ""), with_id(" third", "")]);

    let (events, _) = decode(&[b"data\n\ndata\ndata\n\ndata:"], LIMIT);
    assert_eq!(events, [event(""), event("\n")]);
}

#[test]
fn names_ids_and_retry_follow_the_format() {
    let stream =
        b"\xEF\xBB\xBFevent: e\nid: 7\nretry: 1500\ndata: a\n\nid: bad\0\nretry: 1x\nevent: lost\n\ndata: b\n\n";
    let (events, _) = decode(&[stream], LIMIT);
    let id = Some("7".to_owned());
    let first = Event {
        event: Some("e".to_owned()),
        data: "a".to_owned(),
        id: id.clone(),
        retry: Some(Duration::from_millis(1500)),
    };
    assert_eq!(events, [first, Event { id, ..event("b") }]);
}

// --- the same for every split

fn streams() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static [u8]> = vec![
        b"data: {\"a\":1}",
        b"data:",
        b"data: drop",
        b"data: replace",
        b"data: stop",
        b"data: \xE2\x82\xAC",
        b"event: error",
        b"id: 3",
        b"retry: 10",
        b": ping",
        b":",
        b"error: {}",
        b"x",
        b"\xEF\xBB\xBF",
        b"\xEF\xBB",
        b"\xFF",
        b" ",
    ];
    let ends: Vec<&'static [u8]> = vec![b"\n", b"\r", b"\r\n"];
    let word = prop::sample::select(words).prop_map(<[u8]>::to_vec);
    let end = prop::sample::select(ends).prop_map(<[u8]>::to_vec);
    let twice =
        prop::sample::select(vec![b"\n\n".to_vec(), b"\r\r".to_vec(), b"\r\n\r\n".to_vec(), b"\n\r\n".to_vec()]);
    let long = (20_usize..60).prop_map(|length| vec![b'y'; length]);
    prop::collection::vec(prop_oneof![4 => word, 3 => end, 3 => twice, 1 => long], 0..40)
        .prop_map(|parts| parts.concat())
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..12)
}

fn decide_by_data(block: &Block<'_>) -> Keep {
    match block.data().as_ref() {
        b"drop" => Keep::Drop,
        b"replace" => Keep::Replace(Bytes::from_static(b"data: new\n\n")),
        b"stop" => Keep::Stop,
        _ => Keep::Forward,
    }
}

/// Item 31: not some splits but all of them, of a stream that has every line end and a mark at its begin.
#[test]
fn every_way_to_cut_a_stream_twice_gives_the_same() {
    let mut stream = BOM.to_vec();
    for end in ["\n", "\r\n", "\r"] {
        let lines = [
            "data: 0",
            "",
            ": hm",
            "",
            "data:{\"a\":",
            "data: \"\u{1F600}\u{e9}\"}",
            "id: 7\0",
            "retry: soon",
            "",
            "data:",
            "",
        ];
        stream.extend(lines.map(|line| format!("{line}{end}")).concat().bytes());
    }
    assert!((200..260).contains(&stream.len()), "{}", stream.len());
    let (events, relayed) = (decode(&[&stream], LIMIT), relay(&[&stream], LIMIT, forward));
    assert_eq!((events.0.len(), events.0[0].data.as_str()), (9, "0"), "{events:?}");
    for first in 0..=stream.len() {
        for second in first..=stream.len() {
            let chunks = [&stream[..first], &stream[first..second], &stream[second..]];
            assert_eq!(decode(&chunks, LIMIT), events, "cut at {first} and {second}");
            assert_eq!(relay(&chunks, LIMIT, forward), relayed, "cut at {first} and {second}");
        }
    }
}

proptest! {
    #[test]
    fn the_decoder_gives_the_same_events_for_every_split(stream in streams(), cuts in cuts(), limit in 10_usize..200) {
        let whole = decode(&[&stream], limit);
        prop_assert_eq!(&whole, &decode(&split(&stream, &cuts), limit));
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(&whole, &decode(&bytes, limit));
    }

    #[test]
    fn the_splitter_visits_and_forwards_the_same_for_every_split(
        stream in streams(), cuts in cuts(), limit in 10_usize..200,
    ) {
        let whole = relay(&[&stream], limit, decide_by_data);
        prop_assert_eq!(&whole, &relay(&split(&stream, &cuts), limit, decide_by_data));
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(&whole, &relay(&bytes, limit, decide_by_data));
    }

    #[test]
    fn a_client_reads_the_same_events_with_and_without_the_splitter(stream in streams(), cuts in cuts()) {
        // A byte order mark further in would become a leading one if all before it were absorbed.
        prop_assume!(!stream.windows(3).skip(1).any(|window| window == BOM));
        let relayed = relay(&split(&stream, &cuts), LIMIT, forward);
        prop_assert_eq!(decode(&[&stream], LIMIT).0, decode(&[&relayed.forwarded], LIMIT).0);
    }

    #[test]
    fn no_bytes_upset_decoder_or_splitter(stream in prop::collection::vec(any::<u8>(), 0..400), cuts in cuts()) {
        let chunks = split(&stream, &cuts);
        prop_assert_eq!(decode(&[&stream], 64), decode(&chunks, 64));
        prop_assert_eq!(relay(&[&stream], 64, forward), relay(&chunks, 64, forward));
    }
}
