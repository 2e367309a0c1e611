//! The page as text: nothing from elsewhere, every plot with its marks, no value left out of the data.

use super::*;
use crate::tune::{report_of_a_small_cache, report_of_a_small_trace};

#[test]
fn the_page_needs_nothing_from_elsewhere_and_has_every_plot() {
    let (of_trace, of_cache) = (report_of_a_small_trace(&[]), report_of_a_small_cache());
    assert_eq!((plots(&of_trace).len(), plots(&of_cache).len()), (8, 4));
    for report in [of_trace, of_cache] {
        page_is_whole(&report);
    }
}

fn page_is_whole(report: &Report) {
    let page = page(report);
    for word in ["http://", "https://", "src=", "@import", "url("] {
        let found = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!found.contains(word), "{word}");
    }
    for plot in plots(report) {
        assert!(page.contains(&format!("<figure id=\"{}\"", plot.name)));
        let drawn = ["<rect", "<polyline", "<polygon", "<circle", "<path", "<line"];
        let marks: usize = drawn.iter().map(|mark| plot.svg.matches(mark).count()).sum();
        assert!(plot.marks > 0 && marks >= plot.marks, "{}: {marks} of {}", plot.name, plot.marks);
        assert!(!plot.svg.contains("NaN") && !plot.svg.contains("inf"), "{}", plot.name);
    }
    assert!(page.contains(&escape(&report.sentence())));
    let heads = 1 + usize::from(!report.variants.is_empty());
    assert_eq!(page.matches("<tr").count(), report.surface.len() + report.variants.len() + heads);
}

#[test]
fn a_name_with_markup_in_it_stays_text() {
    let mut report = report_of_a_small_trace(&[]);
    report.trace = "</script><b>\"&".into();
    let page = page(&report);
    assert!(!page.contains("</script><b>") && page.contains("&lt;/script&gt;&lt;b&gt;&quot;&amp;"));
}

#[test]
fn a_report_without_a_recommendation_is_a_page_all_the_same() {
    let report = report_of_a_small_trace(&["--p99", "1us"]);
    let page = page(&report);
    assert!(page.contains("No recommendation: ") && page.contains("--p99 is kept by 0"));
}

#[test]
fn each_plot_is_written_to_a_file_of_its_own() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let report = report_of_a_small_trace(&[]);
    write_plots(&report, &directory.path().join("new/plots")).expect("room for small files");
    let files = std::fs::read_dir(directory.path().join("new/plots")).expect("it was made");
    assert_eq!(files.count(), plots(&report).len());
    assert!(write(&report, &directory.path().join("missing/page.html")).is_err());
}
