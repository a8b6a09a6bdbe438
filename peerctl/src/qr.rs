//! A token as a QR code, for the camera of a machine that shares no clipboard with this one.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

use crate::render::Paint;

/// Two modules a character, with the margin that readers want. The light ones are drawn: most terminals are dark, and where
/// there are colours it does not depend on that.
pub fn code(text: &str, paint: Paint) -> String {
    // What stands on a screen has no scratches: the least redundancy makes the smallest code.
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::L) else {
        return "the text is too long for a QR code\n".to_owned();
    };
    let drawn = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    drawn.lines().map(|line| paint.white_on_black(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Color;

    /// What a camera reads off a dark terminal.
    fn read(drawn: &str) -> String {
        const SCALE: usize = 4;
        let modules: Vec<Vec<bool>> = drawn
            .lines()
            .flat_map(|line| {
                let half = |with: [char; 2]| line.chars().map(move |c| with.contains(&c)).collect::<Vec<_>>();
                [half(['█', '▀']), half(['█', '▄'])]
            })
            .collect();
        let (width, height) = (modules[0].len() * SCALE, modules.len() * SCALE);
        let light = |x: usize, y: usize| if modules[y / SCALE][x / SCALE] { u8::MAX } else { 0 };
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, light);
        let [grid] = &image.detect_grids()[..] else { panic!("there is one code") };
        grid.decode().expect("a code").1
    }

    #[test]
    fn a_camera_reads_the_token_that_was_drawn() {
        let token = format!("peerd1-{}", "abcdefghijklmnopqrstuvwxyz234567".repeat(9));
        let drawn = code(&token, Paint::new(Color::Never));
        assert_eq!(read(&drawn), token);
        let widest = drawn.lines().map(|line| line.chars().count()).max();
        assert!(widest < Some(80), "it is wider than a terminal: {widest:?}");
    }

    #[test]
    fn with_colours_each_line_has_its_own() {
        let plain = code("peerd1-abc", Paint::new(Color::Never));
        let painted = code("peerd1-abc", Paint::new(Color::Always));
        assert_eq!(painted.replace("\x1b[97;40m", "").replace("\x1b[0m", ""), plain);
        assert!(painted.lines().all(|line| line.starts_with("\x1b[97;40m") && line.ends_with("\x1b[0m")));
    }

    #[test]
    fn what_no_code_holds_is_said() {
        assert_eq!(code(&"x".repeat(3000), Paint::new(Color::Never)), "the text is too long for a QR code\n");
    }
}
