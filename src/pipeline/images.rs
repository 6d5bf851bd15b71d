//! Images that a request names by address, for candidates that take bytes alone.
//!
//! They are fetched once for an exchange, when the first candidate needs them, and put into the request
//! that is sealed for it. Who takes addresses gets the addresses.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use domain::{
    BackendError, ChatRequest, FetchFault, Findings, ImageAddresses, ImageFetcher, Part, Trust,
};
use futures::future::try_join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What a permit of [`ImageRules`] stands for.
const ROOM_UNIT_BYTES: usize = 1024;

/// How images are fetched.
#[derive(Clone)]
pub struct ImageRules {
    fetcher: Arc<dyn ImageFetcher>,
    limits: ImageLimits,
    /// What may yet be fetched, in units of [`ROOM_UNIT_BYTES`].
    room: Arc<Semaphore>,
}

/// How much is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Images of one request. One more is refused.
    pub count_max: usize,
    /// Of one image, as the fetcher keeps to it.
    pub bytes_max: usize,
    /// Of all requests that are being opened. One without room waits for `wait_max`, and is refused as
    /// overloaded then.
    pub room_bytes: usize,
    pub wait_max: Duration,
}

impl ImageRules {
    #[must_use]
    pub fn new(fetcher: Arc<dyn ImageFetcher>, limits: ImageLimits) -> Self {
        let units = limits.room_bytes.max(limits.bytes_max) / ROOM_UNIT_BYTES;
        Self {
            fetcher,
            limits,
            room: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// All images of `request` that are at an address.
    ///
    /// # Errors
    /// Why not, with the first image's place.
    pub(crate) async fn fetch(
        &self,
        request: &ChatRequest,
        findings: &Findings,
    ) -> Result<Fetched, BackendError> {
        let mut places: BTreeMap<&str, String> = BTreeMap::new();
        for (path, url) in addresses(request) {
            if is_personal(url, findings) {
                let words = "the address holds personal data, which is sent to no server that \
                             anybody may run; send the image itself";
                return Err(BackendError::declined(path, words));
            }
            places.entry(url).or_insert_with(|| path.clone());
            if places.len() > self.limits.count_max {
                let count_max = self.limits.count_max;
                let words = format!("at most {count_max} images of a request are fetched");
                return Err(BackendError::declined(path, words));
            }
        }
        let mut room = self.room_for(places.len()).await?;
        let fetching = places.into_iter().map(async |(url, path)| {
            let image = self.fetcher.fetch(url).await;
            let image = image.map_err(|fault| declined(path, &fault))?;
            Ok::<_, BackendError>((url.to_owned(), image.url))
        });
        let images: BTreeMap<String, String> = try_join_all(fetching).await?.into_iter().collect();
        let bytes = images.values().map(String::len).sum();
        // What was not needed is somebody else's.
        let spare = room.num_permits().saturating_sub(units(bytes));
        drop(room.split(spare));
        Ok(Fetched {
            images,
            bytes,
            _room: room,
        })
    }

    async fn room_for(&self, count: usize) -> Result<OwnedSemaphorePermit, BackendError> {
        let all = self.limits.room_bytes.max(self.limits.bytes_max) / ROOM_UNIT_BYTES;
        let wanted = units(count.saturating_mul(self.limits.bytes_max)).min(all);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(wanted);
        match timeout(self.limits.wait_max, room).await {
            Ok(Ok(room)) => Ok(room),
            // Never closed.
            Ok(Err(_)) | Err(_) => Err(BackendError::Overloaded {
                retry_after: Duration::ZERO,
            }),
        }
    }
}

impl fmt::Debug for ImageRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageRules")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What an exchange fetched. Has its room until it is dropped.
pub(crate) struct Fetched {
    /// Data URLs by address.
    images: BTreeMap<String, String>,
    pub bytes: usize,
    _room: OwnedSemaphorePermit,
}

impl Fetched {
    /// The request with the images in the places of their addresses. It is no longer as it was received.
    pub fn put_into(&self, mut request: ChatRequest) -> ChatRequest {
        for message in &mut request.messages {
            for part in &mut message.content {
                if let Part::Image(image) = part
                    && let Some(fetched) = self.images.get(&image.url)
                {
                    image.url.clone_from(fetched);
                }
            }
        }
        request.source = None;
        request
    }
}

/// What a candidate gets of images at addresses.
pub(crate) enum Wanted<'a> {
    Addresses,
    Fetched(&'a ImageRules),
}

/// # Errors
/// It takes no addresses, and nothing is fetched here.
pub(crate) fn wanted<'a>(
    request: &ChatRequest,
    takes: ImageAddresses,
    rules: Option<&'a ImageRules>,
) -> Result<Wanted<'a>, BackendError> {
    match (takes, rules) {
        (ImageAddresses::Taken, _) | (ImageAddresses::Doubtful, None) => Ok(Wanted::Addresses),
        (ImageAddresses::Doubtful | ImageAddresses::Refused, Some(rules)) => {
            Ok(Wanted::Fetched(rules))
        }
        (ImageAddresses::Refused, None) => {
            let path = addresses(request).next().map(|(path, _)| path);
            Err(BackendError::declined(
                path.unwrap_or_default(),
                "the chosen model takes images as bytes alone, and this server fetches none \
                 (images.fetch is off); send the image itself, as data:image/png;base64,…",
            ))
        }
    }
}

/// Places and addresses, in order.
fn addresses(request: &ChatRequest) -> impl Iterator<Item = (String, &str)> {
    let messages = request.messages.iter().enumerate();
    messages.flat_map(|(at, message)| {
        let parts = message.content.iter().enumerate();
        parts.filter_map(move |(part_at, part)| match part {
            Part::Image(image) if !image.is_inline() => {
                let path = format!("messages[{at}].content[{part_at}].image_url.url");
                Some((path, image.url.as_str()))
            }
            Part::Image(_)
            | Part::Text(_)
            | Part::Audio(_)
            | Part::File(_)
            | Part::Thought(_)
            | Part::Seal(_)
            | Part::Other(_) => None,
        })
    })
}

/// Whether an address says what is not for everybody. Masked, it would lead elsewhere.
fn is_personal(url: &str, findings: &Findings) -> bool {
    let mut hidden = findings.iter().filter(|it| it.trust_min > Trust::Public);
    hidden.any(|it| url.contains(&it.value))
}

fn declined(path: String, fault: &FetchFault) -> BackendError {
    let words = format!(
        "the image could not be fetched: {fault}; send the image itself, as \
         data:image/png;base64,…"
    );
    BackendError::declined(path, words)
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(ROOM_UNIT_BYTES)
}
