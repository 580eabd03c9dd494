"""A Glance of its own in this process: registers an image by its document, uploads the file, downloads it
again. Prints the image as Glance then has it, as JSON.

glance_takes.py FOLDER IMAGE.json DISK.qcow2
"""

import hashlib
import json
import os
import subprocess
import sys

folder, document, disk = sys.argv[1:]
os.makedirs(f"{folder}/images")
site = next(path for path in sys.path if os.path.exists(f"{path}/etc/glance"))
with open(f"{folder}/glance-api.conf", "w") as conf:
    conf.write(
        f"""
[DEFAULT]
enabled_backends = local:file
node_staging_uri = file://{folder}/staging
log_file = {folder}/glance.log
[glance_store]
default_backend = local
[local]
filesystem_store_datadir = {folder}/images
[os_glance_staging_store]
filesystem_store_datadir = {folder}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {folder}/tasks
[database]
connection = sqlite:///{folder}/glance.sqlite
[oslo_policy]
# Without Keystone nobody has a role.
enforce_new_defaults = false
enforce_scope = false
[paste_deploy]
flavor =
config_file = {site}/etc/glance/glance-api-paste.ini
"""
    )
os.environ["OS_GLANCE_CONFIG_DIR"] = folder
manage = "import sys; from glance.cmd.manage import main; sys.argv[0] = 'glance-manage'; main()"
subprocess.run(
    [sys.executable, "-c", manage, "--config-file", f"{folder}/glance-api.conf", "db_sync"],
    check=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
)

sys.argv[1:] = []
from glance.common import wsgi_app  # noqa: E402
from webob import Request  # noqa: E402

app = wsgi_app.init_app()


def call(method, path, body=None, kind="application/json", length=None):
    request = Request.blank(path, method=method)
    request.headers["Content-Type"] = kind
    if length is not None:
        request.body_file = body
        request.content_length = length
    elif body is not None:
        request.body = body
    response = request.get_response(app)
    if response.status_int >= 300:
        sys.exit(f"{method} {path}: {response.status} {response.text}")
    return response


with open(document, "rb") as file:
    image = json.loads(call("POST", "/v2/images", file.read()).body)
path = f"/v2/images/{image['id']}"
with open(disk, "rb") as file:
    size = os.path.getsize(disk)
    call("PUT", f"{path}/file", file, "application/octet-stream", size)
image = json.loads(call("GET", path).body)
back = hashlib.sha512()
for piece in call("GET", f"{path}/file").app_iter:
    back.update(piece)
image["downloaded_sha512"] = back.hexdigest()
json.dump(image, sys.stdout)
