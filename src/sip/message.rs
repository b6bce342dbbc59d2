//! Views on a scanned message: the headers that the product reads. RFC 3261 §7, §20.

use super::header::address::{self, Address};
use super::header::cseq;
use super::header::list::{elements, split_first};
use super::header::via::Via;
use super::scan::{Fault, Field, Name, Scan, Start};

/// A scanned message with its bytes.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Their index.
    pub scan: &'a Scan,
}

/// Why a request cannot be taken as it is. The peer's fault; each has its status code in [`RequestFault::status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestFault {
    /// The scan found it malformed.
    Scan(Fault),
    /// A header that every request has is absent (RFC 3261 §8.1.1).
    Missing(Name),
    /// A header that may stand once stands twice.
    Repeated(Name),
    /// A header's value cannot be read.
    Value(Name),
    /// The CSeq method is not the request's (RFC 3261 §8.1.1.5).
    MethodMismatch,
}

impl RequestFault {
    /// The status code and reason phrase that answer it.
    ///
    /// RFC 3261 §21.4.1, §21.5.6, §21.5.7.
    pub const fn status(self) -> (u16, &'static str) {
        match self {
            Self::Scan(Fault::Version) => (505, "Version Not Supported"),
            Self::Scan(Fault::TooLarge) => (513, "Message Too Large"),
            Self::Scan(Fault::ContentLength) => (400, "Bad Content-Length"),
            Self::Scan(Fault::StartLine) => (400, "Bad Request-Line"),
            Self::Scan(_) => (400, "Bad Request"),
            Self::Missing(_) => (400, "Missing Header Field"),
            Self::Repeated(_) => (400, "Repeated Header Field"),
            Self::Value(_) => (400, "Bad Header Field"),
            Self::MethodMismatch => (400, "CSeq Method Mismatch"),
        }
    }
}

/// The parts of a request that routing and transactions need, read once.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// The topmost Via value.
    pub via: Via<'a>,
    /// The Call-ID.
    pub call_id: &'a [u8],
    /// The tag of From.
    pub from_tag: &'a [u8],
    /// The tag of To.
    pub to_tag: Option<&'a [u8]>,
    /// The CSeq number.
    pub cseq: u32,
    /// The method of the CSeq.
    pub cseq_method: &'a [u8],
}

impl<'a> Message<'a> {
    /// The request's method.
    ///
    /// RFC 3261 §7.1.
    pub fn method(&self) -> Option<&'a [u8]> {
        match self.scan.start {
            Start::Request { method, .. } => Some(method.of(self.bytes)),
            Start::Response { .. } => None,
        }
    }

    /// The Request-URI.
    ///
    /// RFC 3261 §7.1.
    pub fn request_uri(&self) -> Option<&'a [u8]> {
        match self.scan.start {
            Start::Request { uri, .. } => Some(uri.of(self.bytes)),
            Start::Response { .. } => None,
        }
    }

    /// The status code of a response.
    ///
    /// RFC 3261 §7.2.
    pub fn status(&self) -> Option<u16> {
        match self.scan.start {
            Start::Response { status, .. } => Some(status),
            Start::Request { .. } => None,
        }
    }

    /// The first value of a field, unsplit.
    ///
    /// RFC 3261 §7.3.
    pub fn value(&self, name: Name) -> Option<&'a [u8]> {
        self.scan.first(name).map(|field| field.value.of(self.bytes))
    }

    /// The fields of a name.
    ///
    /// RFC 3261 §7.3.
    pub fn fields(&self, name: Name) -> impl Iterator<Item = &'a Field> + use<'a> {
        self.scan.all(name)
    }

    /// Every element of every field of a name, comma lists split.
    ///
    /// RFC 3261 §7.3.1.
    pub fn elements(&self, name: Name) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.scan.all(name).flat_map(move |field| elements(field.value.of(bytes)))
    }

    /// The first field with this name as written, for fields that have no [`Name`] of their own.
    ///
    /// RFC 3261 §7.3.1.
    pub fn extension(&self, name: &str) -> Option<&'a [u8]> {
        let bytes = self.bytes;
        self.scan
            .all(Name::Other)
            .find(|field| field.name_span.of(bytes).eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| field.value.of(bytes))
    }

    /// The body.
    ///
    /// RFC 3261 §7.4.
    pub fn body(&self) -> &'a [u8] {
        self.scan.body.of(self.bytes)
    }

    /// The topmost Via, when it can be read: a response has somewhere to go.
    ///
    /// RFC 3261 §18.2.2.
    pub fn via(&self) -> Option<Via<'a>> {
        Via::parse(self.value(Name::Via)?)
    }

    /// The first address of a field.
    ///
    /// RFC 3261 §20.10.
    pub fn address(&self, name: Name) -> Option<Address<'a>> {
        Address::parse(self.elements(name).next()?)
    }

    /// Reads what transactions need, without judging the rest.
    ///
    /// RFC 3261 §17.1.3, §17.2.3.
    pub fn envelope(&self) -> Result<Envelope<'a>, RequestFault> {
        let need = |name| self.value(name).ok_or(RequestFault::Missing(name));
        let via = Via::parse(need(Name::Via)?).ok_or(RequestFault::Value(Name::Via))?;
        let call_id = need(Name::CallId)?;
        let (cseq, cseq_method) = cseq::parse(need(Name::CSeq)?).ok_or(RequestFault::Value(Name::CSeq))?;
        let from = need(Name::From)?;
        let to = need(Name::To)?;
        Ok(Envelope {
            via,
            call_id,
            from_tag: address::tag(from).unwrap_or_default(),
            to_tag: address::tag(to),
            cseq,
            cseq_method,
        })
    }

    /// Judges a request as a whole: every mandatory field, none twice, values that can be read.
    ///
    /// RFC 3261 §8.1.1, §16.3 step 1.
    pub fn check_request(&self) -> Result<Envelope<'a>, RequestFault> {
        let envelope = self.envelope()?;
        if let Some(fault) = self.scan.fault.or_else(|| self.lone_cr()) {
            return Err(RequestFault::Scan(fault));
        }
        const SINGLE: [Name; 10] = [
            Name::From,
            Name::To,
            Name::CallId,
            Name::CSeq,
            Name::MaxForwards,
            Name::ContentType,
            Name::ContentLength,
            Name::Expires,
            Name::Date,
            Name::Subject,
        ];
        let mut seen = [false; Name::COUNT];
        for field in &self.scan.fields {
            if std::mem::replace(&mut seen[field.name as usize], true) && SINGLE.contains(&field.name) {
                return Err(RequestFault::Repeated(field.name));
            }
        }
        // RFC 4475 §3.1.2.1: separators with nothing between them.
        let torn = |field: &Field| {
            let value = field.value.of(self.bytes);
            memchr::memchr_iter(b';', value).any(|at| value.get(at + 1) == Some(&b';')) || has_empty_element(value)
        };
        if self.scan.all(Name::Via).any(torn) {
            return Err(RequestFault::Value(Name::Via));
        }
        if envelope.call_id.is_empty() {
            return Err(RequestFault::Value(Name::CallId));
        }
        if self.method() != Some(envelope.cseq_method) {
            return Err(RequestFault::MethodMismatch);
        }
        for name in [Name::From, Name::To] {
            if self.value(name).and_then(Address::parse).is_none() {
                return Err(RequestFault::Value(name));
            }
        }
        if let Some(value) = self.value(Name::MaxForwards)
            && super::scan::decimal(value).is_none_or(|hops| hops > 255)
        {
            return Err(RequestFault::Value(Name::MaxForwards));
        }
        if let Some(value) = self.value(Name::Expires)
            && delta_seconds(value).is_none()
        {
            return Err(RequestFault::Value(Name::Expires));
        }
        Ok(envelope)
    }

    /// Judges a response: whole, with what transactions need, and about the method that its CSeq names.
    ///
    /// RFC 3261 §8.1.3.3, §18.3.
    pub fn check_response(&self) -> Result<Envelope<'a>, RequestFault> {
        let envelope = self.envelope()?;
        match self.scan.fault.or_else(|| self.lone_cr()) {
            Some(fault) => Err(RequestFault::Scan(fault)),
            None => Ok(envelope),
        }
    }

    /// A CR without its LF in the header section. No field may hold one (RFC 3261 §25.1); passed on, what stands behind it
    /// is a field of its own for a receiver that ends lines there.
    fn lone_cr(&self) -> Option<Fault> {
        let head = &self.bytes[..self.scan.head_end as usize];
        let is_lone = |at: usize| self.bytes.get(at + 1) != Some(&b'\n');
        memchr::memchr_iter(b'\r', head).any(is_lone).then_some(Fault::HeaderLine)
    }
}

/// True when a comma has nothing before or behind it.
fn has_empty_element(value: &[u8]) -> bool {
    let mut rest = Some(value);
    while let Some(value) = rest {
        let (first, tail) = split_first(value);
        if first.is_empty() {
            return true;
        }
        rest = tail;
    }
    false
}

/// Seconds of an Expires or like field; numbers beyond 32 bits count as the largest.
///
/// RFC 3261 §20.19.
pub fn delta_seconds(value: &[u8]) -> Option<u32> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(super::scan::decimal(value).and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(u32::MAX))
}
