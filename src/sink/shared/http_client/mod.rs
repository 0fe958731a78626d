//! What every sink that speaks HTTP has in common: how a request is sent and what its answer means.
//! Knows neither events nor bodies.

pub(super) mod answer;
mod certified;
mod client;
pub(super) mod connector;
mod request;

pub(in crate::sink) use answer::{Answer, Head, Verdict, is_about_the_request};
pub(in crate::sink) use client::HttpClient;
pub(in crate::sink) use connector::{REQUEST_TIMEOUT, is_here, origin, request_timeout};
pub(in crate::sink) use request::{Request, is_header_value};
