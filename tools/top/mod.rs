//! `terrace top`: what a service does, in a terminal, from its control socket.
//!
//! Rates and latencies are those between two answers. A service that does not answer is asked again each time; what is on
//! the screen then says so. Keys are heeded meanwhile: another thread waits for the answer.

mod frame;

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::ctl;
use crate::failure::{Failure, Result};
use crate::serve::interval::Interval;
use crate::serve::report::Report;
use crate::units::parse_duration_ns;

/// A service that is well has answered by then.
const MOMENT: Duration = Duration::from_millis(20);
/// How often it is looked whether one that is not has answered.
const LOOK: Duration = Duration::from_millis(100);
/// One that has not answered by then is said to be slow.
const SLOW: Duration = Duration::from_secs(1);

/// Watch a service that runs: hits by tier, rates, latencies, what is dirty. q quits
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// The control socket of the service; only its owner may use it
    #[arg(long, value_name = "PATH", default_value = ctl::SOCKET)]
    socket: PathBuf,

    /// How often the service is asked, such as 500ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,

    /// Print what one interval was like, as text, and end
    #[arg(long)]
    once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = parse_duration_ns(text).map(Duration::from_nanos)?;
    if time < Duration::from_millis(10) {
        return Err("the service has other things to do; 10ms at least".into());
    }
    Ok(time)
}

pub(crate) fn main(args: &TopArgs, print: impl Fn(&str)) -> Result<()> {
    let first = ctl::report(&args.socket)?;
    if args.once {
        thread::sleep(args.interval);
        let later = ctl::report(&args.socket)?;
        print(&frame::text(&Interval::between(Some(&first), &later)));
        return Ok(());
    }
    if !stdout().is_terminal() {
        return Err(Failure::input("standard output is no terminal").remedy("ask for text by --once"));
    }
    let failed =
        |error| Failure::caused("this terminal cannot be drawn on", error).remedy("ask for text by --once");
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let ended = Watch::new(args, first).run(&mut terminal);
    ratatui::restore();
    ended.map_err(failed)
}

struct Watch<'a> {
    args: &'a TopArgs,
    earlier: Option<Report>,
    later: Report,
    /// Why there is no newer answer.
    notice: Option<String>,
    ask_at: Instant,
    /// A question without an answer yet.
    asked: Option<Receiver<Result<Report>>>,
}

impl<'a> Watch<'a> {
    fn new(args: &'a TopArgs, first: Report) -> Self {
        let ask_at = Instant::now() + args.interval;
        Self { args, earlier: None, later: first, notice: None, ask_at, asked: None }
    }

    /// Until someone quits.
    fn run(&mut self, terminal: &mut DefaultTerminal) -> std::io::Result<()> {
        loop {
            let lately = Interval::between(self.earlier.as_ref(), &self.later);
            terminal.draw(|frame| frame::draw(frame, &lately, self.notice.as_deref()))?;
            let until_next = self.ask_at.saturating_duration_since(Instant::now());
            if event::poll(if self.asked.is_some() { LOOK } else { until_next })? {
                // Whatever else it is, such as another size: the next frame shows it.
                if is_end(&event::read()?) {
                    return Ok(());
                }
            } else {
                self.look()?;
            }
        }
    }

    /// Asks, or looks whether what was asked is answered.
    fn look(&mut self) -> std::io::Result<()> {
        let answer = match self.asked.take() {
            Some(answer) => answer,
            None => {
                let (tell, answer) = channel();
                let socket = self.args.socket.clone();
                // It ends with its answer, or with this process.
                thread::Builder::new().spawn(move || drop(tell.send(ctl::report(&socket))))?;
                answer
            }
        };
        match answer.recv_timeout(MOMENT) {
            Ok(Ok(report)) => {
                self.earlier = Some(std::mem::replace(&mut self.later, report));
                self.notice = None;
            }
            Ok(Err(failure)) => self.notice = Some(failure.to_string()),
            Err(RecvTimeoutError::Timeout) => {
                if self.ask_at.elapsed() > SLOW {
                    self.notice = Some("the service takes its time to answer".into());
                }
                self.asked = Some(answer);
                return Ok(());
            }
            // A panic of its thread, which was reported when it came.
            Err(RecvTimeoutError::Disconnected) => self.notice = Some("nobody asks the service".into()),
        }
        self.ask_at = Instant::now() + self.args.interval;
        Ok(())
    }
}

fn is_end(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return false };
    match code {
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}
