// Package interop holds tests that drive a running board and cell through the published Go client of the BBS,
// unchanged. BULLETIN_BOARD_URL names the board (plain HTTP); without it every test is skipped.
//
// BULLETIN_CELL_ID, when set, is the id of the cell that has to be listed.
package interop
