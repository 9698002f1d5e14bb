-- Managed by Ansible: changes made here are overwritten.
-- An upload is being deleted: note it, so that media-sync can tell "deleted here" from "not yet
-- arrived here". A note is a file named by the hash of the upload's name, which it holds; the
-- time of the deletion is its mtime. mod_webdav then deletes the upload itself.

local request = lighty.r
if request.req_attr["request.method"] ~= "DELETE" then return 0 end

local root, path = request.req_attr["physical.basedir"], request.req_attr["physical.path"]
local name = path:sub(#root + 1):gsub("^/", "")
local file = lighty.c.stat(path)
-- A directory: mod_webdav would delete it with all that is in it.
if name == "" or name:sub(-1) == "/" or (file and file.is_dir) then return 403 end

local note = io.open(root:gsub("/$", "") .. "/.sync/deleted/" .. lighty.c.md("sha256", name):lower(), "w")
if not note then return 500 end
local noted = note:write(name)
if not note:close() or not noted then return 500 end
return 0
