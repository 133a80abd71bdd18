//! What is proved of events, answers and documents, from outside: by what is public.

mod batches;
mod events;
mod keys;
mod pdus;
mod props;
mod real;
mod requests;
