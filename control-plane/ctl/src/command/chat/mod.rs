//! `ntonixctl chat`: asks a gateway as a client would, and shows the tokens as they come.

mod answer;
mod http;
mod screen;
mod websocket;

#[cfg(test)]
mod tests;

use std::{cell::RefCell, io::Write};

use ::http::Uri;
use anyhow::{anyhow, bail};
use serde_json::{Value, json};

use self::screen::Screen;
use crate::connect::{TlsArgs, parse_url};

/// Ask a gateway and show the tokens as they come, over SSE or the WebSocket
///
/// An answer that ends before it is complete is an error. With --streams each line begins with the number of its stream.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ntonixctl chat --model demo \"hello\"
  ntonixctl chat --model demo --ws --streams 8 \"hello\"      eight at once, on one socket
  NTONIX_KEY=ntx_… ntonixctl chat --url https://gw.example.com:8443 --ca ca.pem --model llama-3 \"why?\"")]
pub(crate) struct Args {
    /// Which model to ask
    #[arg(long, value_name = "NAME")]
    model: String,
    /// What to say
    prompt: String,
    /// Where the gateway takes clients
    #[arg(long, env = "NTONIX_URL", value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = parse_url)]
    url: Uri,
    /// The key to show
    #[arg(long, env = "NTONIX_KEY", value_name = "KEY", hide_env_values = true)]
    key: Option<String>,
    /// Over the WebSocket protocol ntonix.v1 instead of HTTP and SSE
    #[arg(long)]
    ws: bool,
    /// How many times to ask at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=128))]
    streams: u16,
}

/// What to ask, and whom.
struct Question<'a> {
    args: &'a Args,
    tls: &'a TlsArgs,
}

// === impl Args ===

impl Args {
    pub(super) async fn run(&self, tls: &TlsArgs, out: &mut dyn Write) -> anyhow::Result<()> {
        let screen = RefCell::new(Screen::new(out, self.streams));
        let question = Question { args: self, tls };
        let asked =
            if self.ws { websocket::ask(&question, &screen).await } else { http::ask(&question, &screen).await };
        let failures = asked.map_err(|error| self.advise(&format!("{error:#}")))?;
        match (failures.as_slice(), self.streams) {
            ([], _) => Ok(()),
            ([failure], 1) => Err(self.advise(failure)),
            (failures, streams) => {
                let first = self.advise(&failures[0]);
                bail!("{} of {streams} streams failed: {first}", failures.len())
            }
        }
    }

    /// A failure, and what to do about it where that is plain.
    fn advise(&self, failure: &str) -> anyhow::Error {
        let needs_key = self.key.is_none() && failure.contains("no API key");
        anyhow!("{failure}{}", if needs_key { "; here with --key or NTONIX_KEY" } else { "" })
    }
}

// === impl Question ===

impl Question<'_> {
    /// The body of the request, for both ways.
    fn body(&self) -> Value {
        json!({
            "model": self.args.model,
            "stream": true,
            "messages": [{ "role": "user", "content": self.args.prompt }],
        })
    }

    /// Where to send it.
    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.args.url.to_string().trim_end_matches('/'))
    }

    /// What proves who we are.
    fn authorization(&self) -> Option<String> {
        self.args.key.as_ref().map(|key| format!("Bearer {key}"))
    }
}
