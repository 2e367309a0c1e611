//! A browser without a window, told what to do over its debugging pipe: one JSON object a message, a zero byte behind each.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::run;

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

pub(crate) struct Browser {
    child: Child,
    commands: File,
    answers: BufReader<File>,
    page: String,
    next: u64,
    /// What went wrong on the page: exceptions, errors in the console, what the policy forbade.
    pub(crate) errors: Vec<String>,
}

impl Browser {
    /// One with an empty page; none, and a word about it, where there is no browser. Where `CI` is set there must be.
    #[expect(clippy::print_stdout, reason = "a test that skips says so")]
    pub(crate) fn start(ground: &crate::common::Playground) -> Option<Self> {
        let runs =
            |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|run| run.status.success());
        let Some(name) = NAMES.into_iter().find(runs) else {
            assert!(std::env::var_os("CI").is_none(), "no browser: none of {NAMES:?}");
            println!("skipped: no browser");
            return None;
        };
        run(ground, "mkfifo", &["commands", "answers"]);
        let (child, commands, answers) = Self::spawn(name, ground.path());
        let mut browser = Self {
            child,
            commands,
            answers: BufReader::new(answers),
            page: String::new(),
            next: 0,
            errors: vec![],
        };
        let target = browser.tell("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.tell("Target.attachToTarget", &attach);
        browser.page = session["sessionId"].as_str().expect("a session").into();
        for domain in ["Page", "Runtime", "Log"] {
            browser.tell(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    fn spawn(name: &str, folder: &Path) -> (Child, File, File) {
        // The descriptors that it wants are those of the shell that becomes it.
        let script = format!(
            "exec {name} --headless=new --no-sandbox --disable-gpu --remote-debugging-pipe --user-data-dir=profile \
             3<commands 4>answers"
        );
        let child = Command::new("sh")
            .args(["-c", &script])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let commands = OpenOptions::new().write(true).open(folder.join("commands")).expect("it is read");
        let answers = File::open(folder.join("answers")).expect("it is written");
        (child, commands, answers)
    }

    /// Has it do something, and waits for the answer.
    pub(crate) fn tell(&mut self, method: &str, parameters: &Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": parameters });
        if !self.page.is_empty() {
            message["sessionId"] = self.page.as_str().into();
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).expect("it listens");
        loop {
            let mut answer = Vec::new();
            self.answers.read_until(0, &mut answer).expect("it speaks");
            let answer: Value = serde_json::from_slice(answer.strip_suffix(&[0]).expect("it still runs"))
                .expect("one JSON object");
            self.note(&answer);
            if answer["id"] == self.next {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        let is_error = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                parameters["type"] == "error" || parameters["type"] == "warning"
            }
            Some("Log.entryAdded") => parameters["entry"]["level"] == "error",
            _ => false,
        };
        if is_error {
            self.errors.push(parameters.to_string());
        }
    }

    pub(crate) fn open(&mut self, address: &str) {
        self.tell("Page.navigate", &json!({ "url": address }));
        self.until("document.readyState === 'complete'");
    }

    /// The value of an expression on the page; of a promise, what it comes to.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.tell("Runtime.evaluate", &parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true; the limit is there against hangs alone.
    pub(crate) fn until(&mut self, expression: &str) {
        let promise = format!(
            "new Promise((resolve) => {{
                const end = Date.now() + 60000;
                const look = () => ({expression}) ? resolve(true)
                    : Date.now() > end ? resolve(document.body.innerText) : setTimeout(look, 50);
                look();
            }})"
        );
        assert_eq!(self.value(&promise), true, "never: {expression}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends its other processes when its pipe ends, and this one has nothing to keep.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
