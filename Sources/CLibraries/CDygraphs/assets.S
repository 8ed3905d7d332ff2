/* Debian's libjs-dygraphs, copied into the binary at build: the assembler takes the files in as they are, in no time. */

        .section .rodata
        .global millrace_dygraphs_js, millrace_dygraphs_js_end
millrace_dygraphs_js:
        .incbin "/usr/share/javascript/dygraphs/dygraph.min.js"
millrace_dygraphs_js_end:
        .byte 0

        .global millrace_dygraphs_css, millrace_dygraphs_css_end
millrace_dygraphs_css:
        .incbin "/usr/share/javascript/dygraphs/dygraph.min.css"
millrace_dygraphs_css_end:
        .byte 0

        .section .note.GNU-stack,"",%progbits
