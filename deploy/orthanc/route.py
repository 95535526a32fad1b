"""Orthanc plugin: sends every complete CT and MR series to the reslink node, and repeats failed transfers.

Add this to orthanc.json (Debian: packages orthanc and orthanc-python):
  "PythonScript": "/etc/orthanc/route.py",
  "DicomModalities": {"reslink": ["RESLINK", "127.0.0.1", 11112]},
  "StableAge": 60                         seconds without a new slice until a series is complete
  "Reslink": {"RetrySeconds": 30}         optional
"""

import json
import threading

import orthanc

RETRY = json.loads(orthanc.GetConfiguration()).get("Reslink", {}).get("RetrySeconds", 30)


def send(series):
    order = {"Resources": [series], "Asynchronous": True}
    orthanc.RestApiPost("/modalities/reslink/store", json.dumps(order))


def on_change(change, level, resource):
    if change == orthanc.ChangeType.STABLE_SERIES:
        tags = json.loads(orthanc.RestApiGet(f"/series/{resource}"))["MainDicomTags"]
        if tags.get("Modality") in ("CT", "MR") and tags.get("Manufacturer") != "reslink":
            send(resource)
    elif change == orthanc.ChangeType.JOB_FAILURE:
        job = json.loads(orthanc.RestApiGet(f"/jobs/{resource}"))
        if job["Type"] == "DicomModalityStore" and job["Content"]["RemoteAet"] == "RESLINK":
            for series in job["Content"]["ParentResources"]:
                threading.Timer(RETRY, send, [series]).start()


orthanc.RegisterOnChangeCallback(on_change)
