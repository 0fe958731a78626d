//! The crate's suite of what every sink has to do, for sinks that a URL names, and what such a URL must not do. A sink
//! is entered by implementing [`Target`] and naming it in [`conformance!`], which gives each promise a test of its own.

use crate::support::proxy::Proxy;
use std::sync::Arc;
use temporal_eventstore::{
    Event,
    sink::{self, Sink, SinkEvent},
    testing::conformance::{self as suite, BrokenPromise, SinkUnderTest},
};

pub use suite::Received;

/// A sink that a URL names, and the server behind it.
#[allow(async_fn_in_trait, reason = "only the tests call it")]
pub trait Target: Sized {
    /// Whether an event that comes again is there once.
    const DEDUPES: bool;
    /// What stands in the URL and must never be shown.
    const SECRETS: &'static [&'static str];

    /// Starts the server.
    async fn begin() -> Self;
    /// Where the sink delivers to, with the secrets.
    fn url(&self) -> String;
    /// The same, if nothing beside it is needed to open the sink.
    fn whole_url(&self) -> Option<String> {
        Some(self.url())
    }
    /// The same with a wrong secret; none if there is no such thing.
    fn url_with_wrong_secret(&self) -> Option<String>;
    /// What the server holds, in its order, read with a client of its own.
    async fn received(&self) -> Vec<Received>;
    /// Ends the server.
    async fn stop(&mut self);
    /// Starts it again with what it held.
    async fn start(&mut self);
    /// Lets the server take connections and not answer.
    async fn pause(&mut self);
    /// Lets it go on, with what came meanwhile.
    async fn resume(&mut self);
    /// Lets the server refuse every event, until it is told not to; false if it cannot be told to.
    async fn refuse_all(&mut self, _refuses: bool) -> bool {
        false
    }
    /// An event that this sink can never take, of whatever size; none if it takes all.
    fn poison() -> Option<Event>;
    /// How large an event has to be for the server to refuse it; none if it takes all that a journal
    /// may hold.
    fn oversize() -> Option<usize>;
    /// URLs that must not open, each with a word that the reason has to contain.
    fn wrong_urls() -> Vec<(&'static str, &'static str)>;

    /// A new sink, as after a restart of the program.
    fn open(&self) -> Arc<dyn Sink> {
        self.open_url(&self.url())
    }

    /// A new sink at this URL.
    fn open_url(&self, url: &str) -> Arc<dyn Sink> {
        sink::open(url).unwrap()
    }

    /// Starts the server with a network before it.
    async fn begin_behind_network() -> (Self, Proxy) {
        let target = Self::begin().await;
        let network = Proxy::to(target.port()).await;
        (target, network)
    }

    /// The server's own port.
    fn port(&self) -> u16 {
        url::Url::parse(&self.url()).unwrap().port().unwrap()
    }
}

/// A [`Target`] as the crate's suite sees it.
pub struct Subject<T>(T);

impl<T: Target> SinkUnderTest for Subject<T> {
    const DEDUPES: bool = T::DEDUPES;
    const SECRETS: &'static [&'static str] = T::SECRETS;

    async fn begin() -> Self {
        Self(T::begin().await)
    }

    fn open(&self) -> Arc<dyn Sink> {
        self.0.open()
    }

    fn url(&self) -> Option<String> {
        self.0.whole_url()
    }

    fn open_with_wrong_secret(&self) -> Option<Arc<dyn Sink>> {
        let url = self.0.url_with_wrong_secret()?;
        Some(sink::open(&url).unwrap())
    }

    async fn received(&self) -> Vec<Received> {
        self.0.received().await
    }

    async fn stop(&mut self) {
        self.0.stop().await;
    }

    async fn start(&mut self) {
        self.0.start().await;
    }

    async fn pause(&mut self) {
        self.0.pause().await;
    }

    async fn resume(&mut self) {
        self.0.resume().await;
    }

    async fn refuse_all(&mut self, refuses: bool) -> bool {
        self.0.refuse_all(refuses).await
    }

    fn poison() -> Option<Event> {
        T::poison()
    }

    fn oversize() -> Option<usize> {
        T::oversize()
    }
}

/// One test per promise for a [`Target`]. One that sends its clients to its own address, whatever is
/// before it, is `without_network`.
macro_rules! conformance {
    ($module:ident, $target:ty) => {
        $crate::support::conformance::conformance!($module, $target, {
            #[tokio::test]
            async fn what_arrives_late() -> Result<(), BrokenPromise> {
                of_urls::what_arrives_late::<$target>().await
            }
        });
    };
    ($module:ident, $target:ty, without_network) => {
        $crate::support::conformance::conformance!($module, $target, {});
    };
    ($module:ident, $target:ty, { $($behind_network:item)* }) => {
        mod $module {
            use super::*;
            use $crate::support::conformance as of_urls;
            #[allow(unused_imports, reason = "without a network nothing returns it")]
            use temporal_eventstore::testing::conformance::BrokenPromise;

            temporal_eventstore::sink_conformance!(of_urls::Subject<$target>);

            $($behind_network)*
            #[tokio::test]
            async fn secrets_of_urls_are_not_shown() {
                of_urls::secrets_of_urls_are_not_shown::<$target>().await;
            }
            // Outside of a runtime: opening starts nothing.
            #[test]
            fn wrong_urls() {
                of_urls::wrong_urls::<$target>();
            }
        }
    };
}
pub(crate) use conformance;

/// An event of a workflow, as the journal hands it out.
pub fn event(position: u64, workflow_id: &str) -> SinkEvent {
    suite::event(position, workflow_id).unwrap()
}

/// `count` events of five workflows, one after the other.
pub fn batch(first: u64, count: u64) -> Vec<SinkEvent> {
    suite::batch(first, count).unwrap()
}

pub async fn what_arrives_late<T: Target>() -> Result<(), BrokenPromise> {
    let (target, network) = T::begin_behind_network().await;
    let [server, before_it] = [target.port(), network.port()].map(|port| format!(":{port}/"));
    let sink = target.open_url(&target.url().replace(&server, &before_it));
    let hold_back = || {
        let held = network.hold_back();
        move || {
            held.send_replace(false);
        }
    };
    suite::what_arrives_late(&Subject(target), &*sink, hold_back).await
}

pub async fn secrets_of_urls_are_not_shown<T: Target>() {
    let target = T::begin().await;
    let error = sink::open(&format!("{}#x", target.url())).unwrap_err();
    let text = format!("{error} {error:?}");
    for secret in T::SECRETS {
        assert!(!text.contains(secret), "{secret:?} is shown: {text}");
    }
}

pub fn wrong_urls<T: Target>() {
    for (url, word) in T::wrong_urls() {
        let Err(error) = sink::open(url) else {
            panic!("{url} opens");
        };
        let text = error.to_string();
        assert!(error.reason.contains(word), "{url}: {text}");
        assert!(!error.allowed.is_empty(), "{url}: {text}");
        assert!(!text.contains("hunter2"), "{url}: {text}");
        assert!(!format!("{error:?}").contains("hunter2"), "{url}: {text}");
    }
}
