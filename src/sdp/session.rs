//! A session description as received: sections, origin, media lines. RFC 8866.

use super::fault::SdpFault;
use super::lines::{Line, lines, number, raw_lines, split_word, words};
use super::msrp_media::{Attributes, MessageMedia, Setup};
use super::offer_answer::Leg;
use crate::base::limits::{SDP_LEN_MAX, SDP_MEDIA_COUNT_MAX};

/// A whole description, borrowed from the body it was parsed from.
///
/// The default is the empty description: no media, nothing to keep.
#[derive(Clone, Copy, Debug, Default)]
pub struct Description<'a> {
    /// The lines in front of the first media line.
    pub(super) session: &'a [u8],
    sections: [&'a [u8]; SDP_MEDIA_COUNT_MAX],
    count: usize,
    /// The first usable MSRP media line, read in the same pass.
    message: Option<MessageMedia<'a>>,
}

/// `m=<media> <port> <proto> <fmt> …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaLine<'a> {
    /// The media type.
    pub media: &'a [u8],
    /// The port; 0 means refused or closed (RFC 3264 §6).
    pub port: u16,
    /// The transport protocol.
    pub protocol: &'a [u8],
    /// The formats.
    pub formats: &'a [u8],
}

impl<'a> Description<'a> {
    /// Reads a description: tolerant in line ends, missing lines and unknown ones, strict about what tells where media
    /// lines stand.
    ///
    /// RFC 8866 §5.
    pub fn parse(body: &'a [u8]) -> Result<Self, SdpFault> {
        if body.len() > SDP_LEN_MAX {
            return Err(SdpFault::TooLarge);
        }
        let mut description = Self::default();
        let mut section_start = 0;
        let mut version_seen = false;
        let (mut session, mut own) = (Attributes::default(), Attributes::default());
        let mut found: Option<(usize, u16)> = None;
        for (start, text) in raw_lines(body) {
            if text.is_empty() {
                continue;
            }
            let line = Line::parse(text).ok_or(SdpFault::NotSdp)?;
            if (line.kind == b'v') == version_seen {
                return Err(SdpFault::NotSdp);
            }
            match line.kind {
                b'v' if words(line.value).eq([b"0"]) => version_seen = true,
                b'v' => return Err(SdpFault::NotSdp),
                b'm' => {
                    let media = MediaLine::parse(line.value).ok_or(SdpFault::NotSdp)?;
                    description.close_section(&body[section_start..start]);
                    if description.count == SDP_MEDIA_COUNT_MAX {
                        return Err(SdpFault::TooLarge);
                    }
                    if found.is_none() && media.is_message(b"TCP/MSRP") {
                        found = Some((description.count, media.port));
                    }
                    description.count += 1;
                    section_start = start;
                }
                _ if description.count == 0 => session.take(line),
                _ if found.is_some_and(|(index, _)| index + 1 == description.count) => own.take(line),
                _ => {}
            }
        }
        description.close_section(&body[section_start..]);
        if !version_seen {
            return Err(SdpFault::NotSdp);
        }
        description.message = found.map(|(index, port)| MessageMedia::of(index, port, &own, &session));
        Ok(description)
    }

    /// The first usable MSRP media line, whatever it says about itself: plain TCP, not refused.
    ///
    /// RFC 4975 §8.1.
    pub const fn message(&self) -> Option<MessageMedia<'a>> {
        self.message
    }

    /// The MSRP media line of a description that came on a leg, offer or answer: it has a path, carries `message/cpim`,
    /// and lets messages pass from the originator to the recipient.
    ///
    /// RFC 3264 §6, RFC 4975 §8.
    pub fn usable(&self, leg: Leg) -> Result<MessageMedia<'a>, SdpFault> {
        let Some(media) = self.message() else {
            let secured = self.media_lines().any(|line| line.is_message(b"TCP/TLS/MSRP"));
            return Err(if secured { SdpFault::TlsOnly } else { SdpFault::NoMessageMedia });
        };
        let fits = match leg {
            Leg::Originating => media.offers_to_send(),
            Leg::Terminating => media.answers_to_receive(),
        };
        if !media.has_path() {
            Err(SdpFault::NoPath)
        } else if media.is_secured() {
            Err(SdpFault::TlsOnly)
        } else if !media.takes_cpim() {
            Err(SdpFault::NoCpim)
        } else if !fits {
            Err(SdpFault::Direction)
        } else if media.setup == Setup::Holdconn {
            Err(SdpFault::Setup)
        } else {
            Ok(media)
        }
    }

    /// Media lines.
    ///
    /// RFC 8866 §5.14.
    pub const fn media_count(&self) -> usize {
        self.count
    }

    /// The media lines, in order.
    ///
    /// RFC 8866 §5.14.
    pub fn media_lines(&self) -> impl Iterator<Item = MediaLine<'a>> + use<'a, '_> {
        self.sections[..self.count].iter().filter_map(|section| MediaLine::of(section))
    }

    /// The version in `o=`: it grows with every change.
    ///
    /// RFC 8866 §5.2, RFC 3264 §8.
    pub fn origin_version(&self) -> Option<u64> {
        self.origin_number(2)
    }

    /// The session id in `o=`.
    ///
    /// RFC 8866 §5.2.
    pub fn origin_session_id(&self) -> Option<u64> {
        self.origin_number(1)
    }

    /// True when a later description of the same party asks for nothing new: the same media lines, and an MSRP line that
    /// says the same. The versions need not agree, since peers count them without changing anything.
    ///
    /// RFC 3264 §8.
    pub fn same_media_as(&self, other: &Description<'_>) -> bool {
        self.media_lines().eq(other.media_lines()) && self.message() == other.message()
    }

    /// The lines of one media section, its media line included.
    pub(super) fn section(&self, index: usize) -> &'a [u8] {
        self.sections[..self.count].get(index).copied().unwrap_or_default()
    }

    fn close_section(&mut self, section: &'a [u8]) {
        match self.count.checked_sub(1) {
            None => self.session = section,
            Some(index) => self.sections[index] = section,
        }
    }

    fn origin_number(&self, word: usize) -> Option<u64> {
        let origin = lines(self.session).find(|line| line.kind == b'o')?;
        number(words(origin.value).nth(word)?)
    }
}

impl<'a> MediaLine<'a> {
    /// Reads the value of a media line; a port of several (`/<number>`) counts as its first.
    ///
    /// RFC 8866 §5.14.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let (media, rest) = split_word(value)?;
        let (port, rest) = split_word(rest)?;
        let (protocol, formats) = split_word(rest)?;
        let port = port.split(|byte| *byte == b'/').next()?;
        let port = u16::try_from(number(port)?).ok()?;
        let formats = if formats.is_empty() { b"*" } else { formats };
        Some(Self { media, port, protocol, formats })
    }

    /// The media line that opens a section.
    pub(super) fn of(section: &'a [u8]) -> Option<Self> {
        lines(section).next().and_then(|line| Self::parse(line.value))
    }

    fn is_message(&self, protocol: &[u8]) -> bool {
        self.port != 0 && self.media.eq_ignore_ascii_case(b"message") && self.protocol.eq_ignore_ascii_case(protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "v=0\r\no=alice 2890844526 2890844527 IN IP4 a.example\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\n\
        m=audio 49170/2 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\n\
        m=message 7654 TCP/MSRP *\r\na=accept-types:message/cpim\r\na=path:msrp://192.0.2.10:7654/s;tcp\r\na=sendonly\r\n";

    fn fault(body: &str, leg: Leg) -> Option<SdpFault> {
        Description::parse(body.as_bytes()).and_then(|description| description.usable(leg)).err()
    }

    #[test]
    fn media_lines_and_the_origin_are_read_where_they_stand() {
        let description = Description::parse(WHOLE.as_bytes()).unwrap();
        let lines: Vec<MediaLine<'_>> = description.media_lines().collect();
        assert_eq!(description.media_count(), 2);
        assert_eq!(lines[0], MediaLine { media: b"audio", port: 49170, protocol: b"RTP/AVP", formats: b"0 8" });
        assert_eq!(lines[1], MediaLine { media: b"message", port: 7654, protocol: b"TCP/MSRP", formats: b"*" });
        assert_eq!(description.origin_session_id(), Some(2_890_844_526));
        assert_eq!(description.origin_version(), Some(2_890_844_527));
        assert_eq!(description.usable(Leg::Originating).map(|media| media.index), Ok(1));
    }

    #[test]
    fn bare_line_feeds_blank_lines_and_missing_lines_are_taken() {
        let body = "v=0\nm=MESSAGE 9 tcp/msrp *\na=Path: msrp://a:9/s;tcp \n\na=Accept-Types:Message/CPIM";
        let description = Description::parse(body.as_bytes()).unwrap();
        let media = description.usable(Leg::Originating).unwrap();
        assert_eq!((media.path, media.port, description.origin_version()), (&b"msrp://a:9/s;tcp"[..], 9, None));
    }

    #[test]
    fn what_is_no_description_is_told_apart_from_what_cannot_be_used() {
        let many = format!("v=0\r\n{}", "m=audio 9 RTP/AVP 0\r\n".repeat(SDP_MEDIA_COUNT_MAX + 1));
        let long = format!("v=0\r\ns={}\r\n", "x".repeat(SDP_LEN_MAX));
        let plain = WHOLE.replace("m=message 7654", "m=message 0");
        let cases = [
            ("", SdpFault::NotSdp),
            ("hello", SdpFault::NotSdp),
            ("v=1\r\n", SdpFault::NotSdp),
            ("s=-\r\nv=0\r\n", SdpFault::NotSdp),
            ("v=0\r\nv=0\r\n", SdpFault::NotSdp),
            ("v=0\r\nnothing\r\n", SdpFault::NotSdp),
            ("v=0\r\nm=message TCP/MSRP *\r\n", SdpFault::NotSdp),
            ("v=0\r\nm=message 65536 TCP/MSRP *\r\n", SdpFault::NotSdp),
            ("v=0\r\na=x\ry\r\n", SdpFault::NotSdp),
            ("v=0\r\na=x\0\r\n", SdpFault::NotSdp),
            (&many, SdpFault::TooLarge),
            (&long, SdpFault::TooLarge),
            ("v=0\r\n", SdpFault::NoMessageMedia),
            (&plain, SdpFault::NoMessageMedia),
            ("v=0\r\nm=message 9 TCP/TLS/MSRP *\r\n", SdpFault::TlsOnly),
            ("v=0\r\nm=message 9 TCP/MSRP *\r\na=accept-types:*\r\n", SdpFault::NoPath),
            (&WHOLE.replace("msrp://", "MSRPS://"), SdpFault::TlsOnly),
        ];
        for (body, expected) in cases {
            assert_eq!(fault(body, Leg::Originating), Some(expected), "{body}");
        }
    }

    #[test]
    fn each_leg_has_its_directions() {
        let both = [("sendrecv", None, None), ("inactive", Some(SdpFault::Direction), Some(SdpFault::Direction))];
        let one = [("sendonly", None, Some(SdpFault::Direction)), ("recvonly", Some(SdpFault::Direction), None)];
        for (direction, originating, terminating) in both.into_iter().chain(one) {
            let body = WHOLE.replace("sendonly", direction);
            assert_eq!(fault(&body, Leg::Originating), originating, "{direction}");
            assert_eq!(fault(&body, Leg::Terminating), terminating, "{direction}");
        }
    }

    #[test]
    fn a_description_that_cannot_carry_cpim_or_connects_nobody_is_refused() {
        let plain = WHOLE.replace("message/cpim", "text/plain");
        assert_eq!(fault(&plain, Leg::Originating), Some(SdpFault::NoCpim));
        let held = format!("{WHOLE}a=setup:holdconn\r\n");
        assert_eq!(fault(&held, Leg::Originating), Some(SdpFault::Setup));
        assert_eq!(SdpFault::NoCpim.status(), (488, "Not Acceptable Here"));
    }

    #[test]
    fn a_new_version_alone_is_the_same_media_and_a_moved_line_is_not() {
        let before = Description::parse(WHOLE.as_bytes()).unwrap();
        let counted = WHOLE.replace("2890844527", "2890844528");
        assert!(before.same_media_as(&Description::parse(counted.as_bytes()).unwrap()));
        for (from, to) in
            [("7654", "7655"), ("sendonly", "inactive"), ("m=audio 49170/2", "m=audio 0"), ("s;tcp", "t;tcp")]
        {
            let changed = WHOLE.replace(from, to);
            assert!(!before.same_media_as(&Description::parse(changed.as_bytes()).unwrap()), "{to}");
        }
    }
}
