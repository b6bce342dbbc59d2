//! XML documents (SPEC §3), CPIM bodies (SPEC §2.8), requests of an IMS core.

use super::message::{Request, token, unique};
use std::time::{Duration, SystemTime};

/// The pager mode service in plain form.
pub const ICSI_PAGER: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg";
/// The pager mode service in a feature tag.
pub const ICSI_PAGER_ENCODED: &str = "urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg";
/// The Accept-Contact value of a pager mode message.
pub const ACCEPT_CONTACT: &str = "*;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg\"";
/// Text that stands in every message body of these tests, and must stand in no log.
pub const BODY_MARK: &str = "XBODYMARKX";

/// The usual sender.
pub const ALICE: &str = "sip:alice@a.example";
/// Another sender.
pub const CAROL: &str = "sip:carol@a.example";
/// The usual recipient.
pub const BOB: &str = "sip:bob@home.example";
/// A recipient who is always registered: messages to him prove that nothing else left.
pub const PROBE: &str = "sip:probe@home.example";

/// A moment as SIP's Date writes it.
pub fn date(at: SystemTime) -> String {
    httpdate::fmt_http_date(at)
}

/// The moment some seconds ago.
pub fn seconds_ago(seconds: u64) -> SystemTime {
    SystemTime::now() - Duration::from_secs(seconds)
}

/// A CPIM message as clients write it (SPEC §2.8).
pub fn cpim(from: &str, to: &str, id: &str, disposition: &str, content_type: &str, content: &str) -> String {
    format!(
        "From: <{from}>\r\nTo: <{to}>\r\nNS: imdn<urn:ietf:params:imdn>\r\nimdn.Message-ID: {id}\r\n\
         DateTime: 2031-05-04T09:30:00Z\r\nimdn.Disposition-Notification: {disposition}\r\n\r\n\
         Content-Type: {content_type}\r\n\r\n{content}"
    )
}

/// A complete pager mode message with CPM headers and a CPIM body.
pub fn pager(from: &str, to: &str) -> Request {
    let id = token("imdn");
    pager_with(from, to, &id, "positive-delivery", "text/plain;charset=UTF-8", &format!("Hello {BODY_MARK}"))
}

/// A pager mode message with chosen CPIM parts.
pub fn pager_with(from: &str, to: &str, id: &str, disposition: &str, content_type: &str, content: &str) -> Request {
    let body = cpim("sip:anonymous@anonymous.invalid", "sip:bob@home.example", id, disposition, content_type, content);
    pager_bare(from, to).body("message/cpim", body)
}

/// A pager mode message without body: the headers of an IMS core.
pub fn pager_bare(from: &str, to: &str) -> Request {
    Request::between("MESSAGE", from, to)
        .header("P-Asserted-Identity", &format!("<{from}>"))
        .header("P-Asserted-Service", ICSI_PAGER)
        .header("Accept-Contact", ACCEPT_CONTACT)
        .header("Conversation-ID", &token("conv"))
        .header("Contribution-ID", &token("contr"))
        .header("Date", &date(SystemTime::now()))
}

/// One device of a user, as its own REGISTER describes it.
#[derive(Clone, Debug)]
pub struct Device {
    /// The `+sip.instance` value.
    pub instance: Option<String>,
    /// The contact URI.
    pub contact: String,
    /// True when the contact names the CPM service.
    pub cpm: bool,
    /// The contact's own `expires`.
    pub expires: Option<u32>,
    /// The contact's `q`.
    pub q: Option<&'static str>,
}

impl Device {
    /// A device with CPM.
    pub fn new() -> Self {
        let number = unique();
        Self {
            instance: Some(format!("urn:uuid:f81d4fae-7dec-11d0-a765-{number:012x}")),
            contact: format!("sip:device{number}@192.0.2.7:5060"),
            cpm: true,
            expires: Some(3600),
            q: None,
        }
    }

    /// The same without the CPM service.
    pub fn without_cpm(mut self) -> Self {
        self.cpm = false;
        self
    }

    /// The same for so many seconds.
    pub fn expiring(mut self, seconds: u32) -> Self {
        self.expires = Some(seconds);
        self
    }

    /// The instance, of a device that has one.
    pub fn instance(&self) -> &str {
        self.instance.as_deref().expect("this device has an instance")
    }

    /// The Contact header value.
    pub fn contact_value(&self) -> String {
        let mut value = format!("<{}>", self.contact);
        if let Some(instance) = &self.instance {
            value.push_str(&format!(";+sip.instance=\"<{instance}>\""));
        }
        if self.cpm {
            value.push_str(&format!(";+g.3gpp.icsi-ref=\"{ICSI_PAGER_ENCODED}\""));
        } else {
            value.push_str(";audio;+g.3gpp.smsip");
        }
        if let Some(q) = self.q {
            value.push_str(&format!(";q={q}"));
        }
        if let Some(expires) = self.expires {
            value.push_str(&format!(";expires={expires}"));
        }
        value
    }
}

/// The REGISTER that the UE sent to its S-CSCF, as it travels inside a third-party REGISTER.
pub fn ue_register(user: &str, devices: &[Device]) -> String {
    let contacts: String = devices.iter().map(|device| format!("Contact: {}\r\n", device.contact_value())).collect();
    format!(
        "REGISTER sip:home.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7:5060;branch=z9hG4bK{}\r\nMax-Forwards: 69\r\n\
         From: <{user}>;tag={}\r\nTo: <{user}>\r\nCall-ID: {}@192.0.2.7\r\nCSeq: 2 REGISTER\r\n{contacts}Expires: 600000\r\n\
         Content-Length: 0\r\n\r\n",
        token("u"),
        token("u"),
        token("u")
    )
}

/// A third-party REGISTER (SPEC §2.1) with the UE's own REGISTER as its body.
pub fn third_party_register(pf: &str, scscf: &str, user: &str, devices: &[Device], expires: u32) -> Request {
    third_party_register_bare(pf, scscf, user, expires).body("message/sip", ue_register(user, devices))
}

/// The same, with the UE's REGISTER beside a 3GPP part in a multipart body.
pub fn third_party_register_multipart(pf: &str, scscf: &str, user: &str, devices: &[Device], expires: u32) -> Request {
    let ims = "<?xml version=\"1.0\"?><ims-3gpp version=\"1\"><service-info>x</service-info></ims-3gpp>";
    let body = format!(
        "--b7x\r\nContent-Type: application/3gpp-ims+xml\r\nContent-Disposition: render;handling=optional\r\n\r\n{ims}\r\n\
         --b7x\r\nContent-Type: message/sip\r\n\r\n{}\r\n--b7x--\r\n",
        ue_register(user, devices)
    );
    third_party_register_bare(pf, scscf, user, expires).body("multipart/mixed;boundary=b7x", body)
}

/// A third-party REGISTER without body.
pub fn third_party_register_bare(pf: &str, scscf: &str, user: &str, expires: u32) -> Request {
    Request::new("REGISTER", pf)
        .header("Max-Forwards", "70")
        .header("From", &format!("<{scscf}>;tag={}", token("s")))
        .header("To", &format!("<{user}>"))
        .header("Call-ID", &format!("{}@scscf.home.example", token("r")))
        .header("CSeq", "1 REGISTER")
        .header("Contact", &format!("<{scscf}>"))
        .header("Expires", &expires.to_string())
}

/// One rule of an access policy.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Child elements of `conditions`, as XML.
    pub conditions: String,
    /// The text of `allow-reject-invite`.
    pub reject: &'static str,
}

impl Rule {
    /// A rule with these conditions.
    pub fn new(conditions: impl Into<String>, reject: &'static str) -> Self {
        Self { conditions: conditions.into(), reject }
    }
}

/// `identity/one`.
pub fn one(id: &str) -> String {
    format!("<cr:identity><cr:one id=\"{id}\"/></cr:identity>")
}

/// `service-list` with the seed's draft feature tag.
pub const SERVICE_CPM: &str = "<oxe:service-list><oxe:service featuretag=\"+g.oma.sip-cpm\"/></oxe:service-list>";
/// `media-list` with pager mode messages.
pub const MEDIA_PAGER: &str = "<oxe:media-list><oxe:pager-mode-message/></oxe:media-list>";

/// An access policy document.
pub fn policy(rules: &[Rule]) -> String {
    let rules: String = rules
        .iter()
        .enumerate()
        .map(|(index, rule)| {
            format!(
                "<cr:rule id=\"r{index}\"><cr:conditions>{}</cr:conditions><cr:actions>\
                 <oxe:allow-reject-invite>{}</oxe:allow-reject-invite></cr:actions></cr:rule>",
                rule.conditions, rule.reject
            )
        })
        .collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<cr:ruleset xmlns:cr=\"urn:ietf:params:xml:ns:common-policy\" \
         xmlns:ocp=\"urn:oma:xml:xdm:common-policy\" xmlns:oxe=\"urn:oma:xml:xdm:extensions\">{rules}</cr:ruleset>"
    )
}

/// The policy of case A02: Alice's pager mode messages are rejected.
pub fn policy_blocking(id: &str) -> String {
    policy(&[Rule::new(format!("{}{SERVICE_CPM}{MEDIA_PAGER}", one(id)), "true")])
}

/// A preference document with one profile (SPEC §3.5).
#[derive(Clone, Debug)]
pub struct Preferences {
    /// `available` or `not-available`.
    pub availability: &'static str,
    /// `reject`, `defer`, `store` or `interwork`; none leaves it out.
    pub handling: Option<&'static str>,
    /// `active` or `inactive`.
    pub recording: &'static str,
    /// Instances of the selected devices; empty selects all.
    pub selected: Vec<String>,
    /// The handling of large messages, where `handling` is set.
    pub large: &'static str,
}

impl Default for Preferences {
    fn default() -> Self {
        Self { availability: "available", handling: None, recording: "inactive", selected: Vec::new(), large: "store" }
    }
}

impl Preferences {
    /// What to do when the user cannot be reached.
    pub fn handling(handling: &'static str) -> Self {
        Self { handling: Some(handling), ..Self::default() }
    }

    /// What to do with large messages when the user cannot be reached.
    pub fn large(handling: &'static str) -> Self {
        Self { large: handling, ..Self::handling("defer") }
    }

    /// The document.
    pub fn document(&self) -> String {
        let handling = self.handling.map_or(String::new(), |handling| {
            format!(
                "<when-unavailable><handling media=\"pager-mode-message\">{handling}</handling>\
                 <handling media=\"large-message\">{}</handling></when-unavailable>",
                self.large
            )
        });
        let devices = if self.selected.is_empty() {
            "<devices mode=\"all\"/>".to_owned()
        } else {
            let devices: String =
                self.selected.iter().map(|instance| format!("<device instance=\"{instance}\"/>")).collect();
            format!("<devices mode=\"selected\">{devices}</devices>")
        };
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<cpm-preferences xmlns=\"urn:cpm-pf:xml:user-preferences:1.0\" \
             active=\"work\"><profile id=\"work\"><availability>{}</availability>{handling}\
             <history recording=\"{}\"/>{devices}</profile></cpm-preferences>",
            self.availability, self.recording
        )
    }
}
