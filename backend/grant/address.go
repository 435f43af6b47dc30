package grant

import (
	"fmt"
	"hash/fnv"
	"strings"
)

// StoragePrefix is where the records live:
// <prefix><bucket>/<folder>/<shard>/<rest of the random part>, where the folder is the
// holder's id.
//
// Storage lists a folder whole, in one message, and walks all that is below it to
// do so. The bucket, a digit of the folder's hash, keeps the list of holders in
// parts; the shard, the first digit of the random part, does the same for a holder
// with very many grants, such as NoHolder: a million are lists of 60,000, some 2 MiB
// each. More digits would cost a holder of a hundred grants a list for nearly each.
const StoragePrefix = "grant/"

// dottedMark begins the random part of the grants of holders whose id has a dot in it,
// such as that of an entity in a namespace. Builds of before took such an id to end at
// its first dot, and made the folder of that: the grants that they made, which have no
// mark, are where they put them.
const dottedMark = "n"

// buckets is how many parts the holders are in, one hex digit.
const buckets = 16

const shardDigits = 1

// noShard is the shard of random parts too short to have one; no digit looks like it.
const noShard = "short"

// address is where a record lies, in the order in which records are read.
type address struct {
	bucket              int
	folder, shard, rest string
	// early is true where the folder is only the beginning of the holder's id.
	early bool
}

// addressOf finds a record's address by the grant's id; false if that is none.
func addressOf(id string) (address, bool) {
	holder, ok := HolderOf(id)
	if !ok {
		return address{}, false
	}
	digits, unit := shardDigits, address{folder: holder}
	if strings.HasPrefix(id[len(holder)+1:], dottedMark) && strings.Contains(holder, ".") {
		digits += len(dottedMark)
	} else if early, ok := earlyUnit(holder); ok {
		unit = early
	}
	if unit.folder == "" {
		return address{}, false
	}
	p := address{bucket: bucketOf(unit.folder), folder: unit.folder, early: unit.early, shard: noShard, rest: id[len(unit.folder)+1:]}
	if len(p.rest) > digits {
		p.shard, p.rest = p.rest[:digits], p.rest[digits:]
	}
	return p, true
}

// earlyUnit is the shard in which builds of before put the grants of a holder with a dot in
// its id, beside grants of others; false for a holder without a dot.
func earlyUnit(holder string) (address, bool) {
	folder, second, dotted := strings.Cut(holder, ".")
	if !dotted || len(second) < shardDigits {
		return address{}, false
	}
	return address{bucket: bucketOf(folder), folder: folder, shard: second[:shardDigits], early: true}, true
}

func bucketOf(folder string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(folder)) // it never fails
	return int(h.Sum32() % buckets)
}

func bucketFolder(bucket int) string { return fmt.Sprintf("%s%x/", StoragePrefix, bucket) }

// inBucket is a folder of records with all that leads to it.
func inBucket(folder string) string { return bucketFolder(bucketOf(folder)) + folder + "/" }

func (p address) path() string { return inBucket(p.folder) + p.shard + "/" }

func (p address) key() string { return p.path() + p.rest }

func (p address) id() string {
	if p.shard == noShard {
		return p.folder + "." + p.rest
	}
	return p.folder + "." + p.shard + p.rest
}

// less orders the addresses of one holder.
func (p address) less(q address) bool {
	if p.early != q.early {
		return p.early
	}
	if p.shard != q.shard {
		return p.shard < q.shard
	}
	return p.rest < q.rest
}

// folders are the names of the folders among what a list answered.
func folders(names []string) []string {
	var out []string
	for _, name := range names {
		if folder, ok := strings.CutSuffix(name, "/"); ok {
			out = append(out, folder)
		}
	}
	return out
}
