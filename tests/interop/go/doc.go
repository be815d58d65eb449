// Package interop holds tests that drive a running board and cell through the published Go client of the BBS,
// unchanged. BULLETIN_BOARD_URL names the board; without it every test is skipped.
//
// BULLETIN_CERTIFICATES, when set, is a directory with ca.pem and a NAME.pem and NAME.key each for client, cell and
// operator, which are roles, and for stranger, which another authority signed, in stranger-ca.pem: the board then
// speaks TLS. The certificate of the cell is of the cell interop-cell.
//
// BULLETIN_CELL_ID, when set, is the id of the cell that has to be listed.
//
// The tests in protocol_*_test.go need a board and no cell. Some of them print "board: WORD" on a line of its own and
// go on once whoever runs them has done it: "kill" is a crash and a start on the same address and data, "stop" an
// orderly end.
package interop
