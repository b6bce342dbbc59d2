//! `/admin/users/…`: what the appliance knows of a subscriber.

use super::answer::Refusal;
use super::state::AdminState;
use crate::base::id::{Aor, MessageId};
use crate::base::time::UnixMillis;
use crate::participating::devices::Device;
use crate::participating::preferences::Availability;
use crate::participating::storage::{
    Answer, Command, DeferredMessage, Direction, Fault, MessageObject, Outcome, Reply, Shelf,
};
use crate::participating::subscriber::{Directory, Subscriber};
use crate::sip::uri::canonical_aor;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

type Shared = State<Arc<AdminState>>;

/// `GET /admin/users/<AOR>`.
pub async fn user(State(state): Shared, Path(aor): Path<String>) -> Result<Json<UserView>, Refusal> {
    let aor = address(&aor)?;
    let now = state.plane.now();
    let view = state.plane.subscribers().read(aor.as_str(), |subscriber| {
        subscriber.map(|subscriber| UserView {
            registered: subscriber.devices.iter().any(|device| device.is_registered(now)),
            availability: availability_word(subscriber.availability()),
            devices: device_views(subscriber, now),
            policy: subscriber.policy.is_some(),
            preferences: subscriber.profile.is_some(),
            aor: aor.to_string(),
        })
    });
    view.map(Json).ok_or(unknown())
}

/// `GET /admin/users/<AOR>/devices`.
pub async fn devices(State(state): Shared, Path(aor): Path<String>) -> Result<Json<Vec<DeviceView>>, Refusal> {
    let aor = address(&aor)?;
    let now = state.plane.now();
    let views = state
        .plane
        .subscribers()
        .read(aor.as_str(), |subscriber| subscriber.map(|subscriber| device_views(subscriber, now)));
    views.map(Json).ok_or(unknown())
}

/// `GET /admin/users/<AOR>/deferred`: the oldest first, as they will be delivered.
pub async fn deferred(
    State(state): Shared,
    Path(aor): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<DeferredView>>, Refusal> {
    let user = address(&aor)?;
    let command = Command::PeekDeferred { user: user.clone(), limit: page.limit() };
    match ask(&state, command).await {
        Ok(Reply::Queue(queue)) => listed(&state, &user, queue.iter().map(DeferredView::of).collect()),
        other => Err(failed(other)),
    }
}

/// `GET /admin/users/<AOR>/messages`: the message store, newest first.
pub async fn messages(state: Shared, path: Path<String>, page: Query<Page>) -> Result<Json<Vec<ObjectView>>, Refusal> {
    objects(state, path, page, Shelf::Messages).await
}

/// `GET /admin/users/<AOR>/history`: the conversation history, newest first.
pub async fn history(state: Shared, path: Path<String>, page: Query<Page>) -> Result<Json<Vec<ObjectView>>, Refusal> {
    objects(state, path, page, Shelf::History).await
}

/// `GET /admin/users/<AOR>/messages/<id>`.
pub async fn message(state: Shared, path: Path<(String, u64)>) -> Result<Response, Refusal> {
    object(state, path, Shelf::Messages).await
}

/// `GET /admin/users/<AOR>/history/<id>`.
pub async fn history_object(state: Shared, path: Path<(String, u64)>) -> Result<Response, Refusal> {
    object(state, path, Shelf::History).await
}

/// `PUT /admin/users/<AOR>/availability`.
pub async fn set_availability(
    State(state): Shared,
    Path(aor): Path<String>,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let aor = address(&aor)?;
    let availability = match body.trim_ascii() {
        b"available" => Availability::Available,
        b"not-available" => Availability::NotAvailable,
        _ => return Err(Refusal::bad_request("the body is available or not-available\n")),
    };
    change_availability(&state, &aor, Some(availability)).await
}

/// `DELETE /admin/users/<AOR>/availability`: back to the word of the user's document.
pub async fn clear_availability(State(state): Shared, Path(aor): Path<String>) -> Result<StatusCode, Refusal> {
    change_availability(&state, &address(&aor)?, None).await
}

async fn change_availability(
    state: &AdminState,
    aor: &Aor,
    availability: Option<Availability>,
) -> Result<StatusCode, Refusal> {
    let change = state.plane.set_availability(aor, availability);
    match tokio::time::timeout(state.patience.store, change).await {
        Ok(Ok(())) => Ok(StatusCode::NO_CONTENT),
        Ok(Err(fault)) => Err(Refusal::Store(fault)),
        Err(_) => Err(Refusal::Store(Fault::Broken)),
    }
}

async fn objects(
    State(state): Shared,
    Path(aor): Path<String>,
    Query(page): Query<Page>,
    shelf: Shelf,
) -> Result<Json<Vec<ObjectView>>, Refusal> {
    let user = address(&aor)?;
    let command = Command::ListObjects { shelf, user: user.clone(), limit: page.limit() };
    match ask(&state, command).await {
        Ok(Reply::Objects(objects)) => listed(&state, &user, objects.iter().map(ObjectView::of).collect()),
        other => Err(failed(other)),
    }
}

async fn object(State(state): Shared, Path((aor, id)): Path<(String, u64)>, shelf: Shelf) -> Result<Response, Refusal> {
    let command = Command::ReadObject { shelf, user: address(&aor)?, id: MessageId(id) };
    match ask(&state, command).await {
        Ok(Reply::Objects(mut objects)) => match objects.pop() {
            Some(object) => {
                Ok(([(header::CONTENT_TYPE, "application/octet-stream")], rendered(&object)).into_response())
            }
            None => Err(Refusal::not_found("no such object\n")),
        },
        other => Err(failed(other)),
    }
}

/// The object as one MIME entity: its header lines, its Content-Type, a blank line, the body byte for byte.
fn rendered(object: &MessageObject) -> Vec<u8> {
    let mut entity = Vec::with_capacity(object.head.len() + object.content_type.len() + object.body.len() + 32);
    entity.extend_from_slice(&object.head);
    if !object.content_type.is_empty() {
        entity.extend_from_slice(b"Content-Type: ");
        entity.extend_from_slice(object.content_type.as_bytes());
        entity.extend_from_slice(b"\r\n");
    }
    entity.extend_from_slice(b"\r\n");
    entity.extend_from_slice(&object.body);
    entity
}

async fn ask(state: &AdminState, command: Command) -> Answer {
    tokio::time::timeout(state.patience.store, state.plane.ask_store(command)).await.unwrap_or(Err(Fault::Broken))
}

fn failed(answer: Answer) -> Refusal {
    // The store answers each command with its own kind of reply.
    Refusal::Store(answer.err().unwrap_or(Fault::Broken))
}

/// A list; an empty one for a user whom nobody knows is 404.
fn listed<T>(state: &AdminState, user: &Aor, views: Vec<T>) -> Result<Json<Vec<T>>, Refusal> {
    if views.is_empty() && !state.plane.subscribers().contains(user.as_str()) {
        Err(unknown())
    } else {
        Ok(Json(views))
    }
}

fn address(text: &str) -> Result<Aor, Refusal> {
    canonical_aor(text).ok_or(Refusal::bad_request("not an address of record\n"))
}

const fn unknown() -> Refusal {
    Refusal::not_found("unknown user\n")
}

/// How much of a list is asked for.
#[derive(Debug, Default, Deserialize)]
pub struct Page {
    limit: Option<u16>,
}

impl Page {
    fn limit(&self) -> u16 {
        self.limit.unwrap_or(LIST_COUNT).clamp(1, LIST_COUNT_MAX)
    }
}

/// Entries of a list when nothing is asked.
const LIST_COUNT: u16 = 100;
/// Entries of a list at most.
const LIST_COUNT_MAX: u16 = 1000;

/// A subscriber, as JSON.
#[derive(Debug, Serialize)]
pub struct UserView {
    aor: String,
    registered: bool,
    availability: &'static str,
    devices: Vec<DeviceView>,
    policy: bool,
    preferences: bool,
}

/// A device, as JSON.
#[derive(Debug, Serialize)]
pub struct DeviceView {
    instance: Option<String>,
    contact: String,
    q: f64,
    expires: i64,
    cpm: bool,
    features: String,
}

fn device_views(subscriber: &Subscriber, now: UnixMillis) -> Vec<DeviceView> {
    let registered = subscriber.devices.iter().filter(|device| device.is_registered(now));
    registered.map(DeviceView::of).collect()
}

impl DeviceView {
    fn of(device: &Device) -> Self {
        Self {
            instance: device.instance.as_deref().map(Into::into),
            contact: device.contact.as_ref().into(),
            q: f64::from(device.q_milli) / 1000.0,
            expires: device.expires.seconds(),
            cpm: device.cpm,
            features: device.features.as_ref().into(),
        }
    }
}

/// A deferred message, as JSON.
#[derive(Debug, Serialize)]
pub struct DeferredView {
    id: u64,
    originator: String,
    accepted: i64,
    expires: i64,
    attempts: u32,
    size: u64,
}

impl DeferredView {
    fn of(message: &DeferredMessage) -> Self {
        Self {
            id: message.id.0,
            originator: message.originator.as_ref().into(),
            accepted: message.accepted.0,
            expires: message.expires.0,
            attempts: message.attempts,
            size: message.request.len() as u64 + message.content.as_ref().map_or(0, |content| content.len),
        }
    }
}

/// A message object without its content, as JSON.
#[derive(Debug, Serialize)]
pub struct ObjectView {
    id: u64,
    peer: String,
    imdn_message_id: String,
    conversation_id: String,
    contribution_id: String,
    direction: &'static str,
    outcome: &'static str,
    at: i64,
    content_type: String,
    size: u64,
}

impl ObjectView {
    fn of(object: &MessageObject) -> Self {
        Self {
            id: object.id.0,
            peer: object.peer.as_ref().into(),
            imdn_message_id: object.imdn_message_id.as_ref().into(),
            conversation_id: object.conversation_id.as_ref().into(),
            contribution_id: object.contribution_id.as_ref().into(),
            direction: match object.direction {
                Direction::Received => "received",
                Direction::Sent => "sent",
            },
            outcome: match object.outcome {
                Outcome::Pending => "pending",
                Outcome::Delivered => "delivered",
                Outcome::Failed => "failed",
                Outcome::Deferred => "deferred",
                Outcome::Interworked => "interworked",
                Outcome::Stored => "stored",
            },
            at: object.at.0,
            content_type: object.content_type.as_ref().into(),
            size: object.body_len,
        }
    }
}

const fn availability_word(availability: Availability) -> &'static str {
    match availability {
        Availability::Available => "available",
        Availability::NotAvailable => "not-available",
    }
}
