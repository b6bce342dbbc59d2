//! What the demo's actors send: configuration, XML documents, CPIM, REGISTER and MESSAGE requests.

use super::message::request;
use crate::base::rng::Rng;
use rsip::headers::{
    CSeq, CallId, Contact, Date, Expires, From, MaxForwards, Route, To, UntypedHeader, UserAgent, Via,
};
use rsip::{Header, Method, SipMessage};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The subscriber whom the appliance serves.
pub const BOB: &str = "sip:bob@home.example";
/// Another subscriber, whose registration must survive the crash.
pub const CAROL: &str = "sip:carol@home.example";
/// A sender whom bob wants to hear.
pub const ALICE: &str = "sip:alice@a.example";
/// A sender whom bob does not want to hear.
pub const MALLORY: &str = "sip:mallory@evil.example";

/// The pager mode service. SPEC §2.7.
const PAGER_SERVICE: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg";
/// The same as a feature tag, in which it is percent-encoded.
pub const PAGER_FEATURE: &str = "+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg\"";

/// The large message service. SPEC §2.7.
pub const LARGE_SERVICE: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.largemsg";
/// The same as a feature tag.
pub const LARGE_FEATURE: &str = "+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.largemsg\"";

/// Source of unguessable tags, branches and Call-IDs.
pub struct Names(Rng);

impl Names {
    /// Seeded by the operating system.
    pub fn new() -> Result<Self, String> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| format!("no randomness: {error}"))?;
        Ok(Self(Rng::from_seed(seed)))
    }

    /// Sixteen hexadecimal digits.
    pub fn hex(&mut self) -> String {
        format!("{:016x}", self.0.next_u64())
    }
}

/// A device of bob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// What people call it.
    pub name: &'static str,
    /// Its `+sip.instance`.
    pub instance: &'static str,
}

/// Bob's devices.
pub const DEVICES: [Device; 3] = [
    Device { name: "phone", instance: "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6" },
    Device { name: "tablet", instance: "urn:uuid:0c67446e-f1a1-11d9-94d3-000a95a0e128" },
    Device { name: "laptop", instance: "urn:uuid:00000000-0000-1000-8000-000a95a0e128" },
];

/// The appliance's configuration: loopback, ports of the kernel's choice, two shards, an own store.
pub fn configuration(core: SocketAddr, isf: SocketAddr, data_dir: &Path) -> String {
    let data_dir = toml::Value::from(data_dir.to_string_lossy().into_owned());
    format!(
        "[sip]\nhost = \"pf.home.example\"\nlisten = \"127.0.0.1:0\"\nshard_port = 0\ncore = \"{core}\"\n\
         isf = \"sip:{isf}\"\n[shards]\ncount = 2\npin = false\n[store]\ndata_dir = {data_dir}\n\
         [http]\nlisten = \"127.0.0.1:0\"\n[msrp]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \"warn\"\n"
    )
}

/// Bob's access policy: mallory may not send him messages. SPEC §3.2.
pub fn access_rules() -> String {
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<cr:ruleset xmlns:cr="urn:ietf:params:xml:ns:common-policy" xmlns:oxe="urn:oma:xml:xdm:extensions">
  <cr:rule id="blk1">
    <cr:conditions>
      <cr:identity><cr:one id="{MALLORY}"/></cr:identity>
      <oxe:service-list><oxe:service featuretag="+g.oma.sip-cpm"/></oxe:service-list>
      <oxe:media-list><oxe:pager-mode-message/></oxe:media-list>
    </cr:conditions>
    <cr:actions><oxe:allow-reject-invite>true</oxe:allow-reject-invite></cr:actions>
  </cr:rule>
</cr:ruleset>
"#
    )
}

/// What bob prefers. SPEC §3.5.
#[derive(Clone, Copy)]
pub struct Preferences {
    /// What happens when he cannot be reached.
    pub handling: &'static str,
    /// His history is recorded.
    pub records_history: bool,
    /// The only device he wants messages on; `None` is all of them.
    pub device: Option<Device>,
}

impl Preferences {
    /// His preference document.
    pub fn document(&self) -> String {
        let recording = if self.records_history { "active" } else { "inactive" };
        let devices = match self.device {
            None => "<devices mode=\"all\"/>".to_owned(),
            Some(device) => {
                format!("<devices mode=\"selected\"><device instance=\"{}\"/></devices>", device.instance)
            }
        };
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<cpm-preferences xmlns="urn:cpm-pf:xml:user-preferences:1.0" active="now">
  <profile id="now">
    <availability>available</availability>
    <when-unavailable><handling media="pager-mode-message">{}</handling></when-unavailable>
    <history recording="{recording}"/>
    {devices}
  </profile>
</cpm-preferences>
"#,
            self.handling
        )
    }
}

/// A message as alice composes it, with everything that must survive a deferral.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The sender's address.
    pub from: &'static str,
    /// `imdn.Message-ID` of the CPIM.
    pub imdn_message_id: String,
    /// Conversation-ID.
    pub conversation_id: String,
    /// Contribution-ID.
    pub contribution_id: String,
    /// Date, some time ago so that nobody can have made it up on the way.
    pub date: String,
    /// Media type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Letter {
    /// A text in CPIM. RFC 3862, RFC 5438.
    pub fn new(from: &'static str, text: &str, names: &mut Names) -> Self {
        let imdn_message_id = names.hex();
        let date = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(90));
        let cpim = format!(
            "From: <{from}>\r\nTo: <{BOB}>\r\nNS: imdn<urn:ietf:params:imdn>\r\nimdn.Message-ID: {imdn_message_id}\r\n\
             DateTime: 2026-01-02T03:04:05Z\r\nimdn.Disposition-Notification: positive-delivery\r\n\r\n\
             Content-Type: text/plain;charset=UTF-8\r\n\r\n{text}"
        );
        Self {
            from,
            imdn_message_id,
            conversation_id: names.hex(),
            contribution_id: names.hex(),
            date,
            content_type: "message/cpim",
            body: cpim.into_bytes(),
        }
    }

    /// The same, cut to a length.
    pub fn cut_to(mut self, len: usize) -> Self {
        self.body.truncate(len);
        self
    }

    /// A picture, which pager mode does not take.
    pub fn picture(names: &mut Names) -> Self {
        let body = vec![0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', 0x00, 0xff];
        Self { content_type: "image/png", body, ..Self::new(ALICE, "", names) }
    }

    /// The MESSAGE that carries it to bob. RFC 3428 §4.
    pub fn request(&self, sender: SocketAddr, transport: &str, names: &mut Names) -> Result<SipMessage, String> {
        let mut headers = vec![
            via(sender, transport, names),
            MaxForwards::new("70").into(),
            From::new(format!("<{}>;tag={}", self.from, names.hex())).into(),
            To::new(format!("<{BOB}>")).into(),
            CallId::new(format!("{}@a.example", names.hex())).into(),
            CSeq::new("1 MESSAGE").into(),
            Date::new(self.date.clone()).into(),
            Expires::new("3600").into(),
            UserAgent::new("CPM-client/OMA2.2").into(),
        ];
        for (name, value) in [
            ("P-Asserted-Identity", format!("<{}>", self.from)),
            ("P-Asserted-Service", PAGER_SERVICE.to_owned()),
            ("Accept-Contact", format!("*;{PAGER_FEATURE}")),
            ("Conversation-ID", self.conversation_id.clone()),
            ("Contribution-ID", self.contribution_id.clone()),
        ] {
            headers.push(Header::Other(name.to_owned(), value));
        }
        request(Method::Message, BOB, headers, (self.content_type, self.body.clone()))
    }
}

/// Puts Routes before a request's other headers, the first hop first.
pub fn with_routes(message: SipMessage, routes: &[String]) -> SipMessage {
    let SipMessage::Request(mut request) = message else { return message };
    let mut headers: Vec<Header> = routes.iter().map(|route| Route::new(route.clone()).into()).collect();
    headers.extend(request.headers);
    request.headers = headers.into();
    request.into()
}

/// What a third-party REGISTER says.
pub enum Registration {
    /// The device has registered for CPM.
    Device(Device),
    /// The same, told among other parts of a multipart body.
    DeviceAmongParts(Device),
    /// Nobody is registered any more.
    Nobody,
}

/// The third-party REGISTER that the core sends when a registration of `user` has changed. 3GPP TS 24.229 §5.4.1.7.
pub fn register(
    user: &str,
    what: &Registration,
    core: SocketAddr,
    appliance: SocketAddr,
    names: &mut Names,
) -> Result<SipMessage, String> {
    let expires = if matches!(what, Registration::Nobody) { "0" } else { "600000" };
    let headers = vec![
        via(core, "UDP", names),
        MaxForwards::new("70").into(),
        From::new(format!("<sip:scscf@{core}>;tag={}", names.hex())).into(),
        To::new(format!("<{user}>")).into(),
        CallId::new(format!("{}@scscf.home.example", names.hex())).into(),
        CSeq::new("1 REGISTER").into(),
        Contact::new(format!("<sip:{core}>")).into(),
        Expires::new(expires).into(),
    ];
    let body = match what {
        Registration::Device(device) => ("message/sip", device_register(user, *device, names)),
        Registration::DeviceAmongParts(device) => {
            let inner = device_register(user, *device, names);
            (
                "multipart/mixed;boundary=part",
                format!(
                    "--part\r\nContent-Type: application/3gpp-ims+xml\r\n\r\n<ims-3gpp version=\"1\"/>\r\n\
                 --part\r\nContent-Type: message/sip\r\n\r\n{inner}\r\n--part--\r\n"
                ),
            )
        }
        Registration::Nobody => ("", String::new()),
    };
    request(Method::Register, &format!("sip:{appliance}"), headers, (body.0, body.1.into_bytes()))
}

/// The device's own REGISTER, as the core saw it.
fn device_register(user: &str, device: Device, names: &mut Names) -> String {
    format!(
        "REGISTER sip:home.example SIP/2.0\r\n\
         Via: SIP/2.0/UDP {name}.access.example:5060;branch=z9hG4bK{branch}\r\n\
         Max-Forwards: 70\r\nFrom: <{user}>;tag={tag}\r\nTo: <{user}>\r\nCall-ID: {name}@access.example\r\n\
         CSeq: 1 REGISTER\r\n\
         Contact: <sip:{name}@{name}.access.example:5060>;+sip.instance=\"<{instance}>\";{PAGER_FEATURE};expires=600000\r\n\
         Content-Length: 0\r\n\r\n",
        name = device.name,
        instance = device.instance,
        branch = names.hex(),
        tag = names.hex(),
    )
}

/// The Via of a sender.
pub fn via(from: SocketAddr, transport: &str, names: &mut Names) -> Header {
    Via::new(format!("SIP/2.0/{transport} {from};branch=z9hG4bK{};rport", names.hex())).into()
}

#[cfg(test)]
mod tests {
    use super::super::message::{decode, encode, value};
    use super::*;
    use crate::config::Config;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn the_configuration_is_valid() {
        let text = configuration(address(5070), address(5090), Path::new("/tmp/ring post/\"x\""));
        let config = Config::parse("demo", &text).unwrap();
        assert_eq!(config.sip.core.hop.addr, address(5070));
        assert_eq!(config.store.data_dir, Path::new("/tmp/ring post/\"x\""));
    }

    #[test]
    fn the_documents_are_well_formed() {
        let preferences = Preferences { handling: "store", records_history: true, device: Some(DEVICES[1]) };
        for text in [access_rules(), preferences.document()] {
            roxmltree::Document::parse(&text).unwrap();
        }
    }

    #[test]
    fn a_short_letter_stays_below_the_limit_for_datagrams_with_two_routes() {
        let mut names = Names::new().unwrap();
        let letter = Letter::new(ALICE, &"x".repeat(30), &mut names);
        let message = letter.request(address(50_000), "UDP", &mut names).unwrap();
        let route = "<sip:odi-3f7a@127.0.0.1:50000;lr>".to_owned();
        let bytes = encode(&with_routes(message, &[route.clone(), route]));
        assert!(bytes.len() < 1_300, "{}", bytes.len());
        let again = decode(&bytes).unwrap();
        assert_eq!((value(&again, "Date"), again.body().as_slice()), (letter.date, letter.body.as_slice()));
    }

    #[test]
    fn a_third_party_register_holds_the_devices_own() {
        let mut names = Names::new().unwrap();
        let what = Registration::DeviceAmongParts(DEVICES[0]);
        let message = register(BOB, &what, address(5070), address(5060), &mut names).unwrap();
        let text = String::from_utf8(decode(&encode(&message)).unwrap().body().clone()).unwrap();
        assert!(text.contains("\r\n\r\nREGISTER sip:home.example SIP/2.0\r\n"), "{text}");
        assert!(text.contains("+sip.instance=\"<urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6>\""), "{text}");
    }
}
