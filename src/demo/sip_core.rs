//! The SIP/IP core of the demo: it forks a forwarded MESSAGE to bob's devices and merges their answers.

use super::documents::{DEVICES, Device};
use super::message::entries;
use rsip::SipMessage;

/// What became of one MESSAGE in the core.
pub struct Fork {
    /// Devices it went to.
    pub devices: Vec<&'static str>,
    /// The answer that goes upstream.
    pub status: u16,
}

/// The three devices as the core knows them: what each has, and what it answers.
pub struct Devices {
    answers: [u16; DEVICES.len()],
    received: [Vec<Vec<u8>>; DEVICES.len()],
}

impl Devices {
    /// Devices that take everything, but for the laptop, which is busy: one that takes a message is enough.
    pub fn new() -> Self {
        Self { answers: [200, 200, 486], received: Default::default() }
    }

    /// Forks a request to the devices that its Accept-Contact values allow. RFC 3841 §7.2.
    pub fn fork(&mut self, request: &SipMessage) -> Fork {
        let wanted = wanted_instances(request);
        let mut fork = Fork { devices: Vec::new(), status: 480 };
        let mut answers = Vec::new();
        for (index, device) in DEVICES.iter().enumerate() {
            if wanted.iter().all(|instance| instance == device.instance) {
                self.received[index].push(request.body().clone());
                fork.devices.push(device.name);
                answers.push(self.answers[index]);
            }
        }
        fork.status = best(&answers).unwrap_or(480);
        fork
    }

    /// How many messages a device has got with this body.
    pub fn received(&self, device: Device, body: &[u8]) -> usize {
        let index = DEVICES.iter().position(|known| *known == device);
        index.map_or(0, |index| self.received[index].iter().filter(|known| *known == body).count())
    }
}

/// The instances that Accept-Contact asks for; each value that names one must be met.
pub fn wanted_instances(request: &SipMessage) -> Vec<String> {
    let values = entries(request, "Accept-Contact");
    values.iter().filter_map(|value| instance_of(value)).collect()
}

fn instance_of(value: &str) -> Option<String> {
    let (_, rest) = value.split_once("+sip.instance=\"<")?;
    rest.split_once(">\"").map(|(instance, _)| instance.to_owned())
}

/// The best of several final responses. RFC 3261 §16.7 step 6.
fn best(answers: &[u16]) -> Option<u16> {
    let class = |low: u16| answers.iter().copied().find(|status| status / 100 == low);
    class(2).or_else(|| class(6)).or_else(|| answers.iter().copied().min())
}

#[cfg(test)]
mod tests {
    use super::super::documents::{ALICE, Letter, Names, PAGER_FEATURE};
    use super::*;
    use rsip::Header;

    fn message(accept_contacts: &[&str]) -> SipMessage {
        let mut names = Names::new().unwrap();
        let letter = Letter::new(ALICE, "hi", &mut names);
        let mut message = letter.request("127.0.0.1:5070".parse().unwrap(), "UDP", &mut names).unwrap();
        if let SipMessage::Request(request) = &mut message {
            for value in accept_contacts {
                request.headers.push(Header::Other("Accept-Contact".to_owned(), (*value).to_owned()));
            }
        }
        message
    }

    #[test]
    fn without_an_instance_all_devices_get_the_message_and_one_success_is_enough() {
        let mut devices = Devices::new();
        let request = message(&[]);
        let fork = devices.fork(&request);
        assert_eq!((fork.devices, fork.status), (vec!["phone", "tablet", "laptop"], 200));
        assert_eq!(devices.received(DEVICES[2], request.body()), 1);
    }

    #[test]
    fn an_instance_selects_one_device() {
        let value = format!("*;+sip.instance=\"<{}>\";require;explicit", DEVICES[2].instance);
        let request = message(&[&format!("*;{PAGER_FEATURE}, {value}")]);
        assert_eq!(wanted_instances(&request), [DEVICES[2].instance]);
        let fork = Devices::new().fork(&request);
        assert_eq!((fork.devices, fork.status), (vec!["laptop"], 486));
    }

    #[test]
    fn two_instances_in_one_request_select_nobody() {
        let values = DEVICES.map(|device| format!("*;+sip.instance=\"<{}>\";require", device.instance));
        let fork = Devices::new().fork(&message(&[&values[0], &values[1]]));
        assert_eq!((fork.devices.len(), fork.status), (0, 480));
    }

    #[test]
    fn the_best_answer_wins() {
        assert_eq!(best(&[486, 202, 603]), Some(202));
        assert_eq!(best(&[486, 603]), Some(603));
        assert_eq!(best(&[486, 408]), Some(408));
    }
}
