// SPDX-License-Identifier: Apache-2.0
//! What zbus weighs, with the runtime: a service that owns a name and answers `Get` with a property: `./dev size`.

use std::{collections::BTreeMap, pin::Pin};

use futures_core::Stream as _;
use zbus::{Message, MessageStream, Variant, connection::Builder, fdo::RequestNameFlags, message::Type};

const NAME: &str = "org.example.Bare";

fn main() -> zbus::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve())
}

async fn serve() -> zbus::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_default();
    let connection = Builder::address(address.as_str()).build().await?;
    let mut stream = MessageStream::from(&connection);
    connection.request_name_with_flags(NAME, RequestNameFlags::DO_NOT_QUEUE).await?;
    let mut value = String::new();
    while let Some(message) = std::future::poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
        let message = message?;
        if message.message_type() != Type::MethodCall {
            continue;
        }
        let header = message.header();
        let reply = match header.member().map(zbus::names::MemberName::as_str) {
            Some("Get") => Message::method_return(&header).build(&Variant::from(value.as_str()))?,
            Some("Set") => {
                let body = message.body();
                let (_, _, new): (&str, &str, Variant<'_>) = body.deserialize()?;
                new.downcast_ref::<&str>()?.clone_into(&mut value);
                let changed = BTreeMap::from([("Value", Variant::from(value.as_str()))]);
                let signal = Message::signal("/", "org.freedesktop.DBus.Properties", "PropertiesChanged");
                connection.send(&signal.build(&(NAME, changed, Vec::<&str>::new()))?).await?;
                Message::method_return(&header).build(&())?
            }
            _ => Message::error(&header, "org.freedesktop.DBus.Error.UnknownMethod").build(&"no")?,
        };
        connection.send(&reply).await?;
    }
    Ok(())
}
