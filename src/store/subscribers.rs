//! What is known of subscribers: registrations, availability, XCAP documents.

use super::engine::Engine;
use super::failure::Failure;
use crate::base::id::Aor;
use crate::base::time::UnixMillis;
use crate::participating::devices::Device;
use crate::participating::preferences::Availability;
use crate::participating::storage::{Document, Reply};
use bytes::Bytes;
use rusqlite::Connection;
use rusqlite::types::FromSqlError;
use serde::{Deserialize, Serialize};

/// A [`Device`] as JSON: a registration is one row however many devices it has, because it is replaced as a whole.
#[derive(Serialize, Deserialize)]
struct DeviceRecord {
    instance: Option<Box<str>>,
    contact: Box<str>,
    q_milli: u16,
    expires: i64,
    cpm: bool,
    features: Box<str>,
}

impl Engine {
    /// Replaces a user's devices.
    pub(super) fn put_devices(&mut self, user: &Aor, devices: &[Device]) -> Result<Reply, Failure> {
        let records: Vec<_> = devices.iter().cloned().map(DeviceRecord::from).collect();
        let text = serde_json::to_string(&records).expect("numbers and text are JSON");
        self.connection
            .prepare_cached(
                "INSERT INTO users (user, node, devices) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET node = ?2, devices = ?3",
            )?
            .execute((user.as_str(), self.node.0, text))?;
        Ok(Reply::Done)
    }

    /// Replaces or removes what the admin API says of a user's availability.
    pub(super) fn put_availability(
        &mut self,
        user: &Aor,
        availability: Option<Availability>,
    ) -> Result<Reply, Failure> {
        match availability {
            Some(availability) => self
                .connection
                .prepare_cached(
                    "INSERT INTO availability (user, node, state) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET node = ?2, state = ?3",
                )?
                .execute((user.as_str(), self.node.0, availability_text(availability)))?,
            None => {
                self.connection.prepare_cached("DELETE FROM availability WHERE user = ?1")?.execute([user.as_str()])?
            }
        };
        Ok(Reply::Done)
    }

    /// Creates or replaces a document.
    pub(super) fn put_document(&mut self, document: &Document) -> Result<Reply, Failure> {
        let Document { auid, user, name, etag, body } = document;
        let replaced = self
            .connection
            .prepare_cached(
                "UPDATE documents SET etag = ?4, node = ?5, body = ?6 WHERE user = ?1 AND auid = ?2 AND name = ?3",
            )?
            .execute((user.as_str(), &**auid, &**name, &**etag, self.node.0, &**body))?;
        if replaced == 0 {
            self.connection
                .prepare_cached(
                    "INSERT INTO documents (user, auid, name, etag, node, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute((user.as_str(), &**auid, &**name, &**etag, self.node.0, &**body))?;
            self.ledger.document_created();
        }
        Ok(Reply::Done)
    }

    /// Removes a document, if it is there.
    pub(super) fn delete_document(&mut self, auid: &str, user: &Aor, name: &str) -> Result<Reply, Failure> {
        let removed = self
            .connection
            .prepare_cached("DELETE FROM documents WHERE user = ?1 AND auid = ?2 AND name = ?3")?
            .execute((user.as_str(), auid, name))?;
        if removed > 0 {
            self.ledger.document_removed();
        }
        Ok(Reply::Done)
    }
}

/// Every user that ever registered, with the devices of today.
pub(super) fn read_devices(connection: &Connection) -> Result<Vec<(Aor, Vec<Device>)>, Failure> {
    let mut statement = connection.prepare("SELECT user, devices FROM users ORDER BY user")?;
    let mut rows = statement.query([])?;
    let mut users = Vec::new();
    while let Some(row) = rows.next()? {
        let user = Aor::from_canonical(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?);
        let text = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        let records: Vec<DeviceRecord> =
            serde_json::from_str(text).map_err(|_| Failure::Damaged("a list of devices is not what was written"))?;
        users.push((user, records.into_iter().map(Device::from).collect()));
    }
    Ok(users)
}

/// Every user whose availability the admin API set.
pub(super) fn read_availability(connection: &Connection) -> Result<Vec<(Aor, Availability)>, Failure> {
    let mut statement = connection.prepare("SELECT user, state FROM availability ORDER BY user")?;
    let rows = statement.query_map([], |row| {
        Ok((Aor::from_canonical(row.get_ref(0)?.as_str()?), availability(row.get_ref(1)?.as_str()?)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Every document.
pub(super) fn read_documents(connection: &Connection) -> Result<Vec<Document>, Failure> {
    let mut statement = connection.prepare("SELECT user, auid, name, etag, body FROM documents ORDER BY user")?;
    let rows = statement.query_map([], |row| {
        Ok(Document {
            user: Aor::from_canonical(row.get_ref(0)?.as_str()?),
            auid: row.get(1)?,
            name: row.get(2)?,
            etag: row.get(3)?,
            body: Bytes::copy_from_slice(row.get_ref(4)?.as_blob()?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn availability_text(availability: Availability) -> &'static str {
    match availability {
        Availability::Available => "available",
        Availability::NotAvailable => "not-available",
    }
}

fn availability(text: &str) -> Result<Availability, FromSqlError> {
    [Availability::Available, Availability::NotAvailable]
        .into_iter()
        .find(|availability| availability_text(*availability) == text)
        .ok_or(FromSqlError::InvalidType)
}

impl From<Device> for DeviceRecord {
    fn from(device: Device) -> Self {
        let Device { instance, contact, q_milli, expires, cpm, features } = device;
        Self { instance, contact, q_milli, expires: expires.0, cpm, features }
    }
}

impl From<DeviceRecord> for Device {
    fn from(record: DeviceRecord) -> Self {
        let DeviceRecord { instance, contact, q_milli, expires, cpm, features } = record;
        Self { instance, contact, q_milli, expires: UnixMillis(expires), cpm, features }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, aor, one};
    use super::*;
    use crate::participating::storage::{Command, Levels};

    fn device(contact: &str, instance: Option<&str>) -> Device {
        Device {
            instance: instance.map(Into::into),
            contact: contact.into(),
            q_milli: 500,
            expires: UnixMillis(1_700_000_000_000),
            cpm: instance.is_some(),
            features: "+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service\"".into(),
        }
    }

    fn document(user: &str, name: &str, body: &'static str) -> Document {
        Document {
            auid: "org.openmobilealliance.access-rules".into(),
            user: aor(user),
            name: name.into(),
            etag: body.into(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn a_restart_reads_back_devices_availability_documents_and_who_has_deferred_messages() {
        let mut rig = fixture::rig();
        assert_eq!(rig.image, super::super::Image::default());
        let devices = vec![device("sip:bob@192.0.2.1", Some("urn:uuid:1")), device("sip:bob@192.0.2.2", None)];
        let answers = rig.engine.commit(&[
            Command::PutDevices { user: aor("bob"), devices: vec![device("sip:old@192.0.2.9", None)] },
            Command::PutDevices { user: aor("bob"), devices: devices.clone() },
            Command::PutDevices { user: aor("ann"), devices: devices.clone() },
            Command::PutDevices { user: aor("ann"), devices: Vec::new() },
            Command::PutAvailability { user: aor("bob"), availability: Some(Availability::Available) },
            Command::PutAvailability { user: aor("bob"), availability: Some(Availability::NotAvailable) },
            Command::PutAvailability { user: aor("eve"), availability: Some(Availability::Available) },
            Command::PutAvailability { user: aor("eve"), availability: None },
            Command::PutDocument(Box::new(document("bob", "access-rules", "<old/>"))),
            Command::PutDocument(Box::new(document("bob", "access-rules", "<new/>"))),
            Command::PutDocument(Box::new(document("bob", "index", "<index/>"))),
            Command::DeleteDocument {
                auid: "org.openmobilealliance.access-rules".into(),
                user: aor("bob"),
                name: "index".into(),
            },
            Command::DeleteDocument { auid: "unknown".into(), user: aor("bob"), name: "index".into() },
            fixture::deferral("zoe", 1),
            fixture::deferral("bob", 2),
        ]);
        assert!(answers[..13].iter().all(|answer| *answer == Ok(Reply::Done)), "{answers:?}");
        let mut rig = rig.restart();
        assert_eq!(rig.image.devices, [(aor("ann"), Vec::new()), (aor("bob"), devices)], "ann stays known");
        assert_eq!(rig.image.availability, [(aor("bob"), Availability::NotAvailable)]);
        assert_eq!(rig.image.documents, [document("bob", "access-rules", "<new/>")]);
        assert_eq!(rig.image.users_with_deferred, [aor("bob"), aor("zoe")]);
        let len = fixture::request(0).len() as u64;
        let levels = Levels { deferred: 2, deferred_bytes: 2 * len, documents: 1, ..Levels::default() };
        assert_eq!(one(&mut rig.engine, Command::Levels), Ok(Reply::Levels(levels)));
    }

    #[test]
    fn every_row_names_its_node() {
        let mut rig = fixture::rig();
        rig.engine.commit(&[
            Command::PutDevices { user: aor("bob"), devices: Vec::new() },
            Command::PutAvailability { user: aor("bob"), availability: Some(Availability::Available) },
            Command::PutDocument(Box::new(document("bob", "access-rules", "<old/>"))),
            fixture::deferral("bob", 1),
            Command::Keep {
                shelf: crate::participating::storage::Shelf::History,
                object: fixture::object("bob", "1", b""),
            },
            Command::Keep {
                shelf: crate::participating::storage::Shelf::Messages,
                object: fixture::object("bob", "1", b""),
            },
        ]);
        for table in ["users", "availability", "documents", "deferred", "history", "messages"] {
            let node: u16 =
                rig.engine.connection.query_row(&format!("SELECT node FROM {table}"), [], |row| row.get(0)).unwrap();
            assert_eq!(node, 7, "{table}");
        }
    }
}
