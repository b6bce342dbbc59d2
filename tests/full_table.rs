//! A shard that has no room for another transaction says so, and does not blame the next hop.

use ringpost::base::limits::CLIENT_TRANSACTION_COUNT_MAX;
use ringpost::participating::effect::Effect;
use ringpost::participating::subscriber::Subscriber;
use ringpost::testing::directory::MapDirectory;
use ringpost::testing::scene;
use std::time::Duration;

#[test]
fn a_full_table_is_answered_503_with_a_time_to_try_again() {
    let directory = MapDirectory::default();
    let devices = vec![scene::device("urn:uuid:1")].into();
    directory.publish("sip:bob@home.example", Subscriber { devices, ..Subscriber::default() });
    let mut settings = scene::settings(0, 1);
    settings.path_mtu = 65_535;
    let now = scene::after(Duration::from_secs(1));
    let mut core = scene::core(settings, 0, directory, 7, now);
    let mut send = |number: u64| {
        core.handle_message(&scene::cpm_message(number), scene::datagram_from(scene::CORE), now);
        let mut sent = Vec::new();
        while let Some(effect) = core.poll_effect() {
            if let Effect::SendDatagram { bytes, .. } = effect {
                sent.push(bytes);
            }
        }
        sent
    };
    for number in 0..CLIENT_TRANSACTION_COUNT_MAX as u64 {
        assert!(send(number).iter().any(|bytes| bytes.starts_with(b"MESSAGE ")), "message {number} is forwarded");
    }
    let sent = send(u64::MAX);
    assert_eq!(sent.len(), 1);
    let answer = String::from_utf8_lossy(&sent[0]);
    assert!(answer.starts_with("SIP/2.0 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.contains("\r\nRetry-After: "), "{answer}");
}
