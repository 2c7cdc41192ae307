package native

import (
	"encoding/binary"
	"errors"
)

// timestampList is the SignedCertificateTimestampList (RFC 6962 section 3.3) of
// the timestamps.
func timestampList(timestamps [][]byte) ([]byte, error) {
	list := make([]byte, 2)
	for _, t := range timestamps {
		if len(t) == 0 || len(t) > 0xffff {
			return nil, errors.New("a timestamp has between 1 and 65535 bytes")
		}
		list = append(binary.BigEndian.AppendUint16(list, uint16(len(t))), t...)
	}
	if len(list)-2 > 0xffff {
		return nil, errors.New("the list has more than 65535 bytes")
	}
	binary.BigEndian.PutUint16(list, uint16(len(list)-2))
	return list, nil
}

// timestamps is the inverse of timestampList: nil for what is no such list.
func timestamps(list []byte) [][]byte {
	if len(list) < 2 || int(binary.BigEndian.Uint16(list)) != len(list)-2 {
		return nil
	}
	var timestamps [][]byte
	for list = list[2:]; len(list) > 0; {
		if len(list) < 2 || int(binary.BigEndian.Uint16(list)) > len(list)-2 {
			return nil
		}
		n := 2 + int(binary.BigEndian.Uint16(list))
		timestamps = append(timestamps, list[2:n:n])
		list = list[n:]
	}
	return timestamps
}
