//! WikiText spacing to ordinary spacing and back.

use proptest::prelude::*;
use trimoe::train::data::wikitext::{to_ordinary, to_wikitext};

#[test]
fn wikitext_spacing_becomes_ordinary_and_comes_back() {
    for (original, ordinary) in [
        (" = = Early life = = \n", "== Early life ==\n"),
        (" \n", "\n"),
        (" He said , \" no , I won 't . \" Then : \n", "He said, \"no, I won't.\" Then:\n"),
        (" 1 @,@ 234 @.@ 5 km ( 3 % ; $ 4 ) [ 2 ] \n", "1,234.5 km (3%; $4) [2]\n"),
        (
            " mid @-@ 19th @-@ century and / or 1914 – 18 – long \n",
            "mid-19th-century and/or 1914–18 – long\n",
        ),
        (
            " Mr. J. Smith of the U.S. met O 'Neill 's no . 5 . \n",
            "Mr. J. Smith of the U.S. met O'Neill's no. 5.\n",
        ),
        (" <unk> , \" <unk> \" ( <unk> ) . \n", "<unk>, \"<unk>\" (<unk>).\n"),
        // What the rules would lose is left apart, or marked.
        (" vitamin C . and U.S. . \n", "vitamin C . and U.S. .\n"),
        (" glued, (words) @home @ e-mail \n", "@glued, @(words) @@home @@ @e-mail\n"),
        ("no edges", "@ no edges"),
        ("", ""),
        ("\n", "@ \n"),
        ("  \n", "@   \n"),
        (" \n ", "\n@  "),
    ] {
        assert_eq!(to_ordinary(original), ordinary);
        assert_eq!(to_wikitext(ordinary), original);
    }
}

proptest! {
    #[test]
    fn wikitext_spacing_is_reversible_for_any_text(
        noise in "\\PC{0,40}",
        marks in "([ \n@=.,;:!?()\\[\\]\"'%$£/–a1é-]| @-@ | @,@ | @\\.@ |No| 's | \n ){0,40}",
    ) {
        for text in [&noise, &marks] {
            prop_assert_eq!(&to_wikitext(&to_ordinary(text)), text);
        }
    }
}
