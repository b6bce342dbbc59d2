//! One function per fuzz target: takes any bytes, panics where the product is wrong.

use super::directory::MapDirectory;
use super::scene;
use crate::base::id::{ConnId, ShardId};
use crate::base::limits::SDP_LEN_MAX;
use crate::base::time::Instant;
use crate::cpim::message::{Cpim, unescape, uri_of};
use crate::documents;
use crate::participating::content;
use crate::participating::core::Core;
use crate::participating::effect::Effect;
use crate::participating::input::{Input, Source, Transport};
use crate::participating::preferences::{DeviceSelection, Profile};
use crate::participating::subscriber::Subscriber;
use crate::sdp::{self, Description, Direction, Leg, Own, Setup};
use crate::sip::dialog::session_timer::{Agreement, INTERVAL_MIN, Part, SessionTimer, TimerAnswer, TimerRequest};
use crate::sip::dialog::{Dialog, DialogId, InDialog};
use crate::sip::framing::{Frame, Framer};
use crate::sip::message::Message;
use crate::sip::scan::{Fault, Name, Scan};
use crate::sip::transport::ViaStamp;
use crate::sip::uri::{Uri, canonical, canonical_literal};
use crate::sip::write::{self, Forward};
use std::sync::Arc;
use std::time::Duration;

/// A target and its name.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, for replays of corpora.
pub const TARGETS: [Target; 9] = [
    ("message", message),
    ("framing", framing),
    ("uri", uri),
    ("body", body),
    ("document", document),
    ("sdp", sdp),
    ("core", core),
    ("msrp_head", msrp_head),
    ("msrp_framer", msrp_framer),
];

/// Scans a message, checks the spans, reads every view, writes it every way and scans that again.
pub fn message(bytes: &[u8]) {
    let mut scan = Scan::default();
    if scan.scan(bytes).is_err() {
        return;
    }
    check_spans(bytes, &scan);
    let view = Message { bytes, scan: &scan };
    let _ = (view.via(), view.envelope(), view.extension("X-Other"), view.address(Name::Contact));
    for name in [Name::Via, Name::Route, Name::Contact, Name::PAssertedIdentity, Name::AcceptContact] {
        for element in view.elements(name) {
            assert!(!element.is_empty(), "empty elements are left out");
            let _ = crate::sip::header::via::Via::parse(element);
            if let Some(address) = crate::sip::header::address::Address::parse(element) {
                let _ = (address.tag(), address.params().count(), Uri::parse(address.uri), canonical(address.uri));
            }
        }
    }
    let mut out = Vec::new();
    if view.method().is_some() && view.check_request().is_ok() {
        let edit = Forward {
            via: b"SIP/2.0/UDP 192.0.2.1:5080;branch=z9hG4bKnew",
            stamp: ViaStamp { received: Some(scene::CORE.ip()), rport: Some(5070) },
            max_forwards: 69,
            ..Forward::default()
        };
        write::forward_request(&mut out, &view, &edit);
        check_forwarded(&view, &out);
        assert_eq!(scanned(&write::without_top_via(&out)).fields.len() + 1, scanned(&out).fields.len());
        if let Ok(mut dialog) = Dialog::server(&view, b"ours") {
            assert_eq!(dialog.id().local_tag, b"ours", "a dialog has our tag");
            check_dialog(&mut dialog, &view);
        }
        check_timer(&view);
    }
    if view.status().is_some() && view.check_response().is_ok() {
        out.clear();
        write::forward_response(&mut out, &view, None);
        let again = scanned(&out);
        assert_eq!(again.fault, None, "a response without fault is passed on without fault");
        let after = Message { bytes: &out, scan: &again };
        let (before, after) = (view.elements(Name::Via).count(), after.elements(Name::Via).count());
        assert_eq!(after, before - 1, "exactly one Via goes");
        if let Some(id) = DialogId::of_response(&view)
            && let Ok(mut dialog) = Dialog::client(&view, id.local_tag, b"sip:bob@home.example")
        {
            check_dialog(&mut dialog, &view);
            assert_eq!(dialog.confirm(&view), Ok(()), "what founded a dialog confirms it");
        }
        let _ = Agreement::of_response(&view);
    }
    if view.method().is_some() && view.envelope().is_ok() {
        out.clear();
        let answer = write::Response { status: 400, reason: "Bad Request", to_tag: b"t", ..Default::default() };
        write::response(&mut out, &view, &answer);
        assert_eq!(scanned(&out).fault, None, "our own responses are well-formed");
    }
}

/// Reads the bytes as a stream, at once and cut at places the bytes themselves choose: the same messages come out.
pub fn framing(bytes: &[u8]) {
    let whole = frames(bytes, |_| bytes.len());
    let cut = frames(bytes, |at| at + 1 + usize::from(bytes[at] % 7));
    assert_eq!(whole, cut, "where a stream is cut changes nothing");
    for (start, len) in whole {
        let mut scan = Scan::default();
        if scan.scan(&bytes[start..start + len]).is_ok() {
            assert_ne!(scan.fault, Some(Fault::ContentLength), "the framer and the scan agree on the body");
            assert!(scan.body.end as usize == len || !scan.has_content_length(), "the message ends with its body");
        }
    }
}

/// Reads the head of an MSRP chunk, checks its places, reads it again with its paths known, cut at every place, and
/// written with other paths.
pub fn msrp_head(bytes: &[u8]) {
    use crate::msrp::framer::place_in;
    use crate::msrp::head::{Head, Kind, SeenPaths, Step, read};
    use crate::msrp::{uri, write};
    let mut seen = SeenPaths::default();
    let Step::Whole { head, len, end } = read(bytes, &seen) else { return };
    assert!(head.bytes.len() <= len && len <= bytes.len(), "a head is in what was received");
    assert_eq!(head.has_body, end.is_none(), "there is a body or an end-line");
    for part in [head.transaction_id, head.paths, head.to_path, head.from_path, head.rest] {
        assert!(part.is_empty() || place_in(head.bytes, part).is_some(), "values are in their head");
    }
    if let Some(text) = head.byte_range_text {
        assert!(place_in(head.rest, text).is_some(), "Byte-Range is behind the paths");
    }
    for shorter in 0..len {
        assert_eq!(read(&bytes[..shorter], &seen), Step::Short, "a head is whole or not");
    }
    seen.keep(&head);
    let Step::Whole { head: again, .. } = read(bytes, &seen) else { panic!("it stays whole") };
    assert_eq!(Head { paths_repeat: false, ..again }, head, "known paths change nothing else");
    assert!(head.fault.is_none() || !again.paths_repeat, "wrong heads are judged again");
    for path in [head.to_path, head.from_path] {
        assert!(uri::same_path(path, path), "a path is equal to itself");
        for entry in uri::entries(path).chain([uri::first(path), uri::rest(path)]) {
            let _ = uri::MsrpUri::parse(entry).map(|uri| assert!(uri.same_as(&uri), "a URI is equal to itself"));
        }
    }
    if head.fault.is_some() || !matches!(head.kind, Kind::Send | Kind::Report) {
        return;
    }
    let (mut paths, mut out) = (Vec::new(), Vec::new());
    let to = write::Path { first: uri::rest(head.to_path), rest: b"msrp://b.example:7/sb;tcp" };
    write::path_lines(&mut paths, to, write::Path { first: b"msrp://p.example:2/p2;tcp", rest: b"" });
    write::forward_head(&mut out, &head, b"0wn1d", &paths, Some(head.byte_range));
    if let Some(flag) = end {
        write::end_line(&mut out, b"0wn1d", flag);
    }
    match read(&out, &SeenPaths::default()) {
        Step::Whole { head: after, end: after_end, .. } => {
            assert!(after.fault.is_none() || uri::entries(head.to_path).count() > 9, "a good head stays good");
            assert_eq!((after.kind, after_end, after.paths), (head.kind, end, &paths[..]));
            assert_eq!((after.message_id, after.byte_range), (head.message_id, head.byte_range));
            assert_eq!((after.content_type, after.success_report), (head.content_type, head.success_report));
        }
        Step::Short => panic!("it stays whole"),
        Step::Fault(_) => assert!(out.len() > bytes.len(), "only a longer head can be too long"),
    }
}

/// Reads an MSRP stream at once and cut at places the bytes themselves choose: unless a chunk breaks its Byte-Range, the
/// same comes out.
pub fn msrp_framer(bytes: &[u8]) {
    let whole = msrp_chunks(bytes, |_| bytes.len());
    for cut in [|_: usize| 1, |at: usize| 1 + at % 7, |at: usize| 1 + at % 61] {
        let pieces = msrp_chunks(bytes, cut);
        if !whole.1 && !pieces.1 {
            assert_eq!(whole.0, pieces.0, "where a stream is cut changes nothing");
        }
    }
}

/// What an MSRP stream holds, with bodies put together, and whether a chunk broke its Byte-Range.
fn msrp_chunks(bytes: &[u8], cut: impl Fn(usize) -> usize) -> (Vec<Vec<u8>>, bool) {
    use crate::msrp::framer::{Event, Framer};
    let mut framer = Framer::new();
    let (mut found, mut is_broken, mut at) = (Vec::new(), false, 0);
    while at < bytes.len() {
        let end = (at + cut(at)).min(bytes.len());
        let mut input = &bytes[at..end];
        at = end;
        let mut budget = 3 * input.len() + 8;
        loop {
            budget -= 1;
            assert!(budget > 0, "the framer gets on");
            match framer.next(&mut input) {
                Event::Head(head) => found.extend([head.bytes.to_vec(), Vec::new()]),
                Event::Body(part) => {
                    assert!(!part.is_empty(), "no event is idle");
                    if let Some(body) = found.last_mut() {
                        body.extend_from_slice(part);
                    }
                }
                Event::End(flag) => {
                    assert!(framer.is_idle(), "a chunk's end leaves nothing behind");
                    is_broken |= !framer.keeps_range();
                    found.push(vec![flag.byte()]);
                }
                Event::Incomplete => break,
                Event::Fault(fault) => {
                    found.push(format!("{fault:?}").into_bytes());
                    return (found, is_broken || !framer.keeps_range());
                }
            }
        }
        assert!(input.is_empty(), "all is consumed before more is asked for");
    }
    (found, is_broken || !framer.keeps_range())
}

/// Reads a URI and its canonical forms.
pub fn uri(bytes: &[u8]) {
    let parsed = Uri::parse(bytes);
    if let Ok(uri) = &parsed {
        let _ = (uri.is_loose_route(), uri.transport(), uri.ip());
        assert!(uri.same_as(uri), "a URI is equal to itself");
    }
    for aor in [canonical(bytes), canonical_literal(bytes)].into_iter().flatten() {
        let again = canonical(aor.as_str().as_bytes()).map(|again| again.as_str().to_owned());
        assert!(again.is_some(), "a canonical address is an address");
    }
    if let Some(aor) = canonical(bytes) {
        let again = canonical(aor.as_str().as_bytes()).map(|again| again.as_str().to_owned());
        assert_eq!(again.as_deref(), Some(aor.as_str()), "canonical is canonical");
    }
}

/// Reads a CPIM body and checks content. The first line, if it is short, is the Content-Type.
pub fn body(bytes: &[u8]) {
    let end = memchr::memchr(b'\n', bytes).filter(|end| *end < 200);
    let (content_type, body) = match end {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (&b"message/cpim"[..], bytes),
    };
    let accept = scene::settings(0, 1).accept_types;
    for content_type in [content_type, b"message/cpim"] {
        let _ = content::check(Some(content_type), None, body, &accept).map(|facts| facts.wants_failure_notice());
    }
    if let Ok(cpim) = Cpim::parse(body) {
        let _ = (cpim.from().map(uri_of), cpim.to().map(unescape), cpim.date_time(), cpim.imdn_message_id());
        let _ = (cpim.disposition_notification(), cpim.content_type(), cpim.content());
    }
}

/// Reads an offer and, behind a NUL, an answer; writes every description that can be made of them and reads that again.
pub fn sdp(bytes: &[u8]) {
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
    let Ok(offer) = Description::parse(&bytes[..end]) else { return };
    let answer = bytes.get(end + 1..).and_then(|answer| Description::parse(answer).ok());
    assert!(offer.same_media_as(&offer), "a description is the same as itself");
    let message = offer.message();
    let path = message.filter(|media| media.has_path()).map(|media| media.path);
    for leg in [Leg::Originating, Leg::Terminating] {
        assert!(offer.usable(leg).is_err() || path.is_some(), "what can be used has a path");
        let addr = std::net::SocketAddr::from(([192, 0, 2, 1], 2855));
        let uri = "msrp://192.0.2.1:2855/own;tcp";
        let own = Own { leg, addr, uri, session_id: 1, version: 2, size_max: 1_000, peer_path: path };
        let mut out = Vec::new();
        sdp::write_offer(&mut out, &offer, &own);
        check_description(&out, &own);
        assert!(out.len() > SDP_LEN_MAX || Description::parse(&out).is_ok_and(|offer| offer.media_count() == 1));
        for (other, setup) in [(answer.as_ref(), Setup::Passive), (None, Setup::Absent), (Some(&offer), Setup::Active)]
        {
            out.clear();
            sdp::write_answer(&mut out, &offer, other, &own, setup);
            check_description(&out, &own);
            let Ok(written) = Description::parse(&out) else { continue };
            assert_eq!(written.media_count(), offer.media_count(), "an answer has a line for each of the offer's");
            assert_eq!(written.message().map(|media| media.index), message.map(|media| media.index));
            assert!(written.message().is_none_or(|media| media.setup == setup));
            for (index, (line, offered)) in written.media_lines().zip(offer.media_lines()).enumerate() {
                let is_ours = message.is_some_and(|media| media.index == index);
                assert!(is_ours || (line.port == 0 && line.media == offered.media && line.formats == offered.formats));
            }
        }
    }
}

/// Compiles the bytes as each kind of document.
pub fn document(bytes: &[u8]) {
    struct NoLists;
    impl documents::Lists for NoLists {
        fn members(&self, _: &str) -> Option<Arc<crate::participating::policy::MemberSet>> {
            None
        }
    }
    let _ = documents::compile_access_policy(bytes, &NoLists);
    let _ = documents::compile_preferences(bytes);
    let _ = documents::compile_resource_lists(bytes);
}

/// Feeds the bytes to a core of two shards, as a datagram, on a stream and as a hand-over, and lets all timers run out.
/// Several messages are separated by a NUL.
pub fn core(bytes: &[u8]) {
    let directory = MapDirectory::default();
    let profile = Profile {
        records_history: true,
        devices: DeviceSelection::Selected(vec!["urn:uuid:1".into()]),
        ..Profile::default()
    };
    let devices = Box::new([scene::device("urn:uuid:1"), scene::device("urn:uuid:2")]);
    directory.publish("sip:bob@home.example", Subscriber { devices, ..Subscriber::default() });
    let devices = Box::new([scene::device("urn:uuid:1")]);
    let rich = Subscriber { devices, profile: Some(Arc::new(profile)), ..Subscriber::default() };
    directory.publish("sip:rich@home.example", rich);
    directory.publish("sip:gone@home.example", Subscriber::default());
    let mut settings = scene::settings(0, 2);
    settings.defer_on = vec![408, 480, 500, 503];
    settings.isf = Some(scene::isf());
    let mut core = scene::core(settings, 0, directory, 7, scene::after(Duration::ZERO));
    let mut store = super::store::ModelStore::default();
    let peer = scene::address([198, 51, 100, 1], 5060);
    let stream = Some((ShardId(1), ConnId { slot: 1, generation: 0 }));
    let sources = [
        scene::datagram_from(peer),
        Source {
            transport: Transport::Tcp,
            peer,
            listener: 0,
            socket: crate::participating::effect::Socket::WellKnown,
            conn: stream,
        },
    ];
    let mut time = Duration::ZERO;
    for one in bytes.split(|byte| *byte == 0).take(8) {
        for source in sources {
            time += Duration::from_millis(1);
            core.handle_message(one, source, scene::after(time));
            let message = bytes::Bytes::copy_from_slice(one);
            core.handle_input(Input::Handover { message, source }, scene::after(time));
            carry_out(&mut core, &mut store, time);
        }
    }
    for _ in 0..2_000 {
        let Some((at, _)) = core.poll_timeout() else { break };
        let span = Duration::from_nanos(at.0);
        if span > Duration::from_secs(120) {
            break;
        }
        time = time.max(span);
        core.handle_timeout(scene::after(time));
        assert!(core.poll_timeout().is_none_or(|(next, _)| next > scene::after(time).at), "firing moves on");
        carry_out(&mut core, &mut store, time);
    }
}

/// Answers what a core asks: the store and the control plane at once, half of the requests with a response.
fn carry_out(core: &mut Core<MapDirectory>, store: &mut super::store::ModelStore, time: Duration) {
    use crate::participating::input::{ControlAnswer, ControlCommand};
    let now = scene::after(time);
    let mut budget = 500;
    while let Some(effect) = core.poll_effect() {
        budget -= 1;
        assert!(budget > 0, "one message leads to boundedly many effects");
        match effect {
            Effect::SendDatagram { bytes, .. } => {
                let scan = scanned(&bytes);
                assert_eq!(scan.fault, None, "what leaves is well-formed: {}", String::from_utf8_lossy(&bytes));
                let view = Message { bytes: &bytes, scan: &scan };
                if view.method().is_some() {
                    let mut answer = Vec::new();
                    let status = if bytes.len() % 2 == 0 { 200 } else { 480 };
                    let own = write::Response { status, reason: "Fine", to_tag: b"d", ..Default::default() };
                    write::response(&mut answer, &view, &own);
                    core.handle_message(&answer, scene::datagram_from(scene::CORE), now);
                }
            }
            Effect::SendStream { ticket, bytes, .. } => {
                assert_eq!(scanned(&bytes).fault, None, "what leaves is well-formed");
                if let Some(ticket) = ticket {
                    core.handle_input(Input::StreamFailed { ticket }, now);
                }
            }
            Effect::Store { ticket, command } => {
                let answer = store.execute(command);
                core.handle_input(Input::Store { ticket, answer }, now);
            }
            Effect::Control { ticket, command } => {
                let answer = match command {
                    ControlCommand::Register(_) => ControlAnswer::Registered,
                    ControlCommand::Resolve { host, port } => ControlAnswer::Resolved(match host.len() % 2 {
                        0 => vec![std::net::SocketAddr::new(scene::CORE.ip(), port)],
                        _ => Vec::new(),
                    }),
                };
                core.handle_input(Input::Control { ticket, answer }, now);
            }
            Effect::Spool { .. } | Effect::Media(_) | Effect::Post { .. } => {}
        }
    }
}

/// A request inside a dialog is well-formed, names the dialog and takes every route.
fn check_dialog(dialog: &mut Dialog, founder: &Message<'_>) {
    let mut out = Vec::new();
    let cseq = dialog.next_cseq();
    dialog.write_request(&mut out, &InDialog { method: "UPDATE", via: b"SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx", cseq });
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    let scan = scanned(&out);
    assert_eq!(scan.fault, None, "our own requests are well-formed");
    let view = Message { bytes: &out, scan: &scan };
    assert_eq!(DialogId::of_response(&view), Some(dialog.id()), "our request names the dialog");
    assert_eq!(view.envelope().map(|envelope| envelope.cseq), Ok(cseq));
    let routes = founder.elements(Name::RecordRoute).count();
    assert_eq!(view.elements(Name::Route).count(), routes, "every route is taken");
    assert_eq!(dialog.routes().first().is_some(), routes > 0);
    assert!(Uri::parse(dialog.next_hop()).is_ok(), "there is somewhere to go");
    let target = dialog.target().to_vec();
    let _ = dialog.on_target_refresh(founder);
    assert!(routes > 0 || Uri::parse(&target).is_ok());
}

/// What is agreed about session timers is never more than asked for and never too little.
fn check_timer(request: &Message<'_>) {
    let Some(asked) = TimerRequest::of(request) else { return };
    if let TimerAnswer::Agreed(agreement) = asked.answer(1_800) {
        assert!(agreement.seconds >= INTERVAL_MIN);
        assert!(asked.expires.is_none_or(|expires| agreement.seconds <= expires.seconds));
        let mut timer = SessionTimer::default();
        timer.on_agreed(Some(agreement), Part::Server, Instant::ZERO);
        while let Some(at) = timer.poll_timeout() {
            assert!(timer.handle_timeout(at).is_some(), "a deadline has something due");
        }
    }
}

/// What we write in SDP is well-formed, and says of us what it should.
fn check_description(bytes: &[u8], own: &Own<'_>) {
    assert!(bytes.ends_with(b"\r\n") && !bytes.contains(&0), "whole lines");
    assert!(memchr::memchr2_iter(b'\r', b'\n', bytes).count() == 2 * memchr::memmem::find_iter(bytes, b"\r\n").count());
    if bytes.len() > SDP_LEN_MAX {
        return;
    }
    let written = Description::parse(bytes);
    assert!(written.is_ok(), "what we write can be read: {}", String::from_utf8_lossy(bytes));
    let Ok(written) = written else { return };
    assert_eq!((written.origin_session_id(), written.origin_version()), (Some(own.session_id), Some(own.version)));
    let Some(media) = written.message() else { return };
    let is_receiving = own.leg == Leg::Originating;
    let direction = if is_receiving { Direction::RecvOnly } else { Direction::SendOnly };
    assert_eq!(media.direction, direction, "from our viewpoint");
    assert_eq!(media.connect, Some(own.addr), "the media line says where our URI is");
    assert_eq!(media.path.split(|byte| *byte == b' ').next(), Some(own.uri.as_bytes()), "we come first");
    assert!(own.peer_path.is_none_or(|path| media.path.ends_with(path)), "then whoever the other leg named");
    assert!(media.size_max <= Some(own.size_max), "never more than we take");
    assert!(!is_receiving || media.takes_cpim(), "what CPM carries");
}

fn check_spans(bytes: &[u8], scan: &Scan) {
    let mut at = 0;
    for field in &scan.fields {
        let (line, value) = (field.line, field.value);
        assert!(at <= line.start && line.start < line.end && line.end as usize <= bytes.len(), "lines are in order");
        assert!(line.start <= field.name_span.start && field.name_span.end <= value.start, "a name comes first");
        assert!(value.start <= value.end && value.end <= line.end, "a value is inside its line");
        at = line.end;
    }
    assert!(at <= scan.head_end && scan.head_end as usize <= bytes.len(), "the head ends behind its fields");
    assert!(scan.body.start <= scan.body.end && scan.body.end as usize <= bytes.len(), "the body is inside");
}

/// A forwarded request has the fields of the received one, but for those a proxy changes.
fn check_forwarded(before: &Message<'_>, out: &[u8]) {
    let scan = scanned(out);
    assert_eq!(scan.fault, None, "a request without fault is forwarded without fault");
    let after = Message { bytes: out, scan: &scan };
    assert!(after.check_request().is_ok(), "a request that was judged good stays good");
    assert_eq!(after.body(), before.body());
    assert_eq!((after.method(), after.request_uri()), (before.method(), before.request_uri()));
    let kept = |message: &Message<'_>| -> Vec<(Vec<u8>, Vec<u8>)> {
        let changed = [Name::Via, Name::MaxForwards, Name::ContentLength];
        let fields = message.scan.fields.iter().filter(|field| !changed.contains(&field.name));
        fields.map(|f| (f.name_span.of(message.bytes).to_vec(), f.value.of(message.bytes).to_vec())).collect()
    };
    assert_eq!(kept(before), kept(&after), "every other field is there, in order, unchanged");
    let vias = |message: &Message<'_>| message.elements(Name::Via).count();
    assert_eq!(vias(&after), vias(before) + 1, "one Via more");
}

fn scanned(bytes: &[u8]) -> Scan {
    let mut scan = Scan::default();
    let outcome = scan.scan(bytes);
    assert!(outcome.is_ok(), "what we write can be scanned: {}", String::from_utf8_lossy(bytes));
    scan
}

/// The messages of a stream that arrives in pieces: `cut` says how far the next piece reaches from where it starts.
fn frames(bytes: &[u8], cut: impl Fn(usize) -> usize) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut framer = Framer::default();
    let (mut start, mut end) = (0, 0);
    loop {
        match framer.next(&bytes[start..end]) {
            Frame::Incomplete if end == bytes.len() => return found,
            Frame::Incomplete => end = cut(end).min(bytes.len()),
            Frame::Ping { len } | Frame::Blank { len } => start += len,
            Frame::Message { len } => {
                assert!(len > 0 && start + len <= end, "a frame is in what was received");
                found.push((start, len));
                start += len;
            }
            Frame::Unframed { .. } | Frame::TooLarge => return found,
        }
    }
}
